"""Clients and a server that speak TensorFlow Serving's REST and gRPC.

Nothing here imports the training side; `rest_client` needs no TensorFlow either.
"""
