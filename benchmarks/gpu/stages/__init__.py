"""The stages. Each module is one, with

TITLE, MEASURES: a heading, and a sentence on what is run.
NEEDS: packages by the name they are imported under.
USES_KERNELS: nothing can run on a device that the kernels do not know. OPTIONAL: skipped where a
    package is missing, where others fail. TUNED: results hold for one set of configurations.
names(smoke) -> list: its parts, in the order of their worth.
results(setting, wanted) -> iterator of (part, result): runs them. A result is a dictionary for
    JSON; its "problem", if any, makes the part a failure, which is tried again the next time.
page(results, smoke) -> lines: the body of its Markdown.
judge(results) -> list of Judgement: the targets that it tells about.
"""
