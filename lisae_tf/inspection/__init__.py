"""The benchmark on sets of pictures that people inspect, laid out as MVTec's are."""
