"""What detectors share that measure rows of features and know no pictures."""

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.graph import GraphDetector


class RowDetector(GraphDetector):
    """A detector on rows, float32 (N, m): places of pictures, or a user's own features."""

    def require_rows(self, data: TrainingData) -> None:
        """Refuses pictures.

        Raises:
            LisaeError: the data is pictures.
        """
        if len(data.shape) != 1:
            raise LisaeError(
                f"--variant {self.config.variant} works on features, not on pixels; leave "
                "--features none out, or use another variant such as ae"
            )
