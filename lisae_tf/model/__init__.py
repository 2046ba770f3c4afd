"""The paper's networks and equations as Keras models and graphs: no data, no training loop."""
