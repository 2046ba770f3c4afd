"use strict";
// Scores pictures by ONNX Runtime Web, beside the page so that this stays awake.
let opened;

const fetched = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is not there`);
  return new Uint8Array(await answer.arrayBuffer());
};

const open = async () => {
  const [ort, code, model] = await Promise.all([
    import("../runtime/ort.mjs"), fetched("../runtime/ort.wasm"), fetched("../model"),
  ]);
  // More threads would need a page that is isolated from all other origins.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = code;
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  return { ort, session: await ort.InferenceSession.create(model, options) };
};

// `pixels` are levels of 0 to 255; a graph that takes floats gets them as Python gives them.
const tensor = (ort, pixels, shape, float) => {
  if (!float) return new ort.Tensor("uint8", pixels, shape);
  const step = Math.fround(1 / 255);
  return new ort.Tensor("float32", Float32Array.from(pixels, (level) => level * step), shape);
};

addEventListener("message", async ({ data: { number, pixels, shape, float, mapped } }) => {
  try {
    opened = opened || open();
    const { ort, session } = await opened;
    const image = tensor(ort, pixels, [1, ...shape], float);
    const found = await session.run({ image }, mapped ? ["score", "error_map"] : ["score"]);
    const map = mapped && { errors: found.error_map.data, size: found.error_map.dims.slice(1) };
    postMessage({ number, score: found.score.data[0], map });
  } catch (error) {
    postMessage({ number, error: String(error.message || error) });
  }
});
