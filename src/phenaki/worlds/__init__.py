"""Recorders: they play a simulator and write a data set of video with actions, captions and poses."""
