"""Frozen pretrained features of pictures: backbones, their weights, and places in them."""
