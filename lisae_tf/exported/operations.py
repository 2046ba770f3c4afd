"""Which operations a SavedModel may hold: those that exports write, and no other.

A graph can read, write and send files. What is not on the list is refused before TensorFlow sees
the model; runs without TensorFlow, on the parsed protocol buffer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lisae_tf.core.errors import LisaeError

# Collected from exports of every variant with a graph, on pixels and on features of every backbone,
# grey and colour, uint8 and float32, tiled or not (tests/test_operations.py), with TensorFlow 2.21.
# Another version of TensorFlow may write a few more: add them here if they neither read nor write
# anything outside the graph, hold no Python and draw no random numbers.
_EXPORTED = """
    Abs AddV2 Assert AvgPool BiasAdd BroadcastTo Cast ConcatV2 Const Conv2D Conv2DBackpropInput
    DecodeJpeg DecodePng DecodeRaw DepthwiseConv2dNative EnsureShape Equal Erfc Exp ExpandDims
    ExtractJpegShape Floor FloorDiv GatherV2 Greater GreaterEqual Identity IdentityN If LeakyRelu
    Less LessEqual Log LogicalAnd LogicalOr MatMul Max MaxPool Maximum Mean Min Minimum Mul Neg NoOp
    Pack Pad ParseExampleV2 PartitionedCall Placeholder Prod ReadVariableOp RealDiv Relu Relu6
    Reshape ResizeBilinear Rsqrt ScaleAndTranslate Shape Sigmoid Softmax SplitV Sqrt Square
    SquaredDifference Squeeze StatefulPartitionedCall StatelessIf StatelessWhile StopGradient
    StridedSlice StringLength Sub Substr Sum Tanh TensorListFromTensor TensorListGetItem
    TensorListReserve TensorListSetItem TensorListStack Tile TopKV2 Transpose Unpack VarHandleOp
    While
"""
# Of the two functions that save and restore variables, which nothing in a loaded model calls:
# TensorFlow restores by itself, and TensorFlow Serving restores by one of them.
_SAVER = """
    AssignVariableOp Const DisableCopyOnRead Identity MergeV2Checkpoints NoOp Pack ReadVariableOp
    RestoreV2 SaveV2 Select ShardedFilename StaticRegexFullMatch StringJoin
"""
OPERATIONS, SAVER_OPERATIONS = frozenset(_EXPORTED.split()), frozenset(_SAVER.split())
# Objects whose loading runs nothing: no tables, no files, no functions that restore.
_OBJECTS = frozenset(
    {"bare_concrete_function", "captured_tensor", "constant", "function", "variable"}
)
_CONTAINERS = frozenset({"_generic_user_object", "signature_map", "trackable_list_wrapper"})


def check(stored: Any, path: Path) -> Any:
    """The one graph of a SavedModel, all of whose operations are known.

    Args:
        stored: the parsed `SavedModel` protocol buffer.
        path: its file, for messages.

    Returns:
        Its `MetaGraphDef`.

    Raises:
        LisaeError: an operation or an object that exports do not write, or several graphs.
    """
    graphs = list(stored.meta_graphs)
    # Without its objects, or with a second graph, TensorFlow loads by the rules of version 1.
    if (
        len(graphs) != 1
        or "serve" not in graphs[0].meta_info_def.tags
        or not graphs[0].HasField("object_graph_def")
    ):
        raise LisaeError(f"{path} is truncated or altered; export the model again")
    found = {*_operations(graphs[0]), *_objects(graphs[0].object_graph_def)}
    if found:
        raise LisaeError(
            f"{path} holds what no export of this version does ({', '.join(sorted(found))}) and is "
            "not loaded; export the model again with this version, and load nobody else's"
        )
    return graphs[0]


def _operations(graph: Any) -> Iterator[str]:
    """The operations that are not allowed where they stand."""
    savers = _savers(graph)
    for node in graph.graph_def.node:
        if node.op not in OPERATIONS:
            yield node.op
    for function in graph.graph_def.library.function:
        allowed = SAVER_OPERATIONS if function.signature.name in savers else OPERATIONS
        yield from (node.op for node in function.node_def if node.op not in allowed)


def _objects(objects: Any) -> Iterator[str]:
    """The kinds of objects that do more than hold values and signatures."""
    for node in objects.nodes:
        kind = node.WhichOneof("kind")
        if kind == "user_object":
            if node.user_object.identifier not in _CONTAINERS:
                yield f"object {node.user_object.identifier}"
        elif kind not in _OBJECTS:
            yield f"object {kind}"
        if node.saveable_objects or node.registered_name or node.registered_saver:
            yield "object with a saver of its own"


def _savers(graph: Any) -> set[str]:
    """The functions of the saver's own two nodes, unless anything else leads to them."""
    nodes = graph.graph_def.node
    named = {graph.saver_def.save_tensor_name, graph.saver_def.restore_op_name}
    places = {name.partition(":")[0] for name in named}
    places -= {_place(name) for node in nodes for name in node.input}
    places -= {_place(name) for name in _ends(graph)}
    own: set[str] = set()
    other = set(graph.object_graph_def.concrete_functions)
    for node in nodes:
        (own if node.name in places else other).update(_called(node))
    functions = graph.graph_def.library.function
    for function in functions:
        other.update(name for node in function.node_def for name in _called(node))
        # TensorFlow may put such a function in place of another of the same word.
        if "api_implements" in function.attr:
            other.add(function.signature.name)
    for gradient in graph.graph_def.library.gradient:
        other |= {gradient.function_name, gradient.gradient_func}
    for node in graph.object_graph_def.nodes:
        other |= {node.bare_concrete_function.concrete_function_name}
        other |= set(node.function.concrete_functions)
    names = [function.signature.name for function in functions]
    return {name for name in own - other if names.count(name) == 1}


def _ends(graph: Any) -> Iterator[str]:
    """The tensors at which a graph is entered, left or started."""
    for signature in graph.signature_def.values():
        yield from (info.name for info in signature.outputs.values())
    for collection in graph.collection_def.values():
        yield from collection.node_list.value


def _place(tensor: str) -> str:
    return tensor.lstrip("^").partition(":")[0]


def _called(node: Any) -> Iterator[str]:
    """The functions that a node names, as its operation or in its attributes, however deep."""
    yield node.op
    yield from _named(node.attr)


def _named(attributes: Any) -> Iterator[str]:
    for value in attributes.values():
        for function in (value.func, *value.list.func):
            if function.name:
                yield function.name
                yield from _named(function.attr)
