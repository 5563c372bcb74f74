"""sidetune: adapt a pretrained network to a stream of tasks with a light side network, and compare with every rival."""

__version__ = "0.1.0"
