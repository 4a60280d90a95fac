"""OpenVINO: conversion of networks to its files, the store of what was converted, and the engine.

Owns the only imports of openvino (runtime.py). The serving process reads converted networks; conversion runs
in a process of its own.
"""
