"""As much of torch as the script of VBench's environment touches."""


class device:
    def __init__(self, name):
        self.type = name.partition(":")[0]
