TITLE = "x"
MEASURES = "x"
NEEDS = ("nothere",)
USES_KERNELS = False
OPTIONAL = True
TUNED = False
