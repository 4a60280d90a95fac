"""Networks exported by PyTorch and PaddlePaddle, served, against those libraries themselves."""
