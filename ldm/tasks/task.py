"""Task: a pipeline made from another, to do one step otherwise."""

from typing import Any

from ldm.pipeline import Pipeline
from ldm.plan import Plan


class Task(Pipeline):
    """A pipeline of the same parts, in memory once, that says more about its pictures: `told` joins their metadata.

    Raises ValueError where `pipe` is one that already does something otherwise, for that would be lost.
    """

    def __init__(self, pipe: Pipeline, **told: Any):
        if type(pipe) not in (Pipeline, Task):
            raise ValueError(f"a {type(pipe).__name__} cannot become a {type(self).__name__} as well; make that of the "
                             "plain pipeline")
        vars(self).update(vars(pipe))
        self.told = {**vars(pipe).get("told", {}), **told}

    def metadata(self, plan: Plan, i: int) -> dict[str, Any]:
        return {**super().metadata(plan, i), **self.told}
