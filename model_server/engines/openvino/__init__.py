"""OpenVINO: conversion of networks to its files, the store of converted networks, and the engine.

Owns the only imports of openvino (runtime.py). The serving process reads converted networks; conversion runs
in a child process.
"""
