"""Requests that schemathesis makes up from the description of the API: none of them is answered with a 5xx."""

import contextlib
from collections import Counter

import httpx
import hypothesis
import pytest
import schemathesis
from exchange import encoded
from hypothesis import HealthCheck, Phase
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.generation.modes import GenerationMode

RED = encoded(Image.new("RGB", (64, 64), "red"))
DRAWING = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")
PICTURES = {"image": RED, "mask": RED, "init_images": [RED]}
SMALL = {"steps": 2, "width": 64, "height": 64, "batch_size": 1, "n_iter": 1, "hr_scale": 1, "send_images": False}
NAMES = {"sampler_name": "Euler", "sampler_index": "Euler", "scheduler": "Karras", "preset": "ldm",
         "upscaler_1": "Lanczos", "hr_upscaler": "Lanczos"}


def help_along(case: schemathesis.Case) -> None:
    """Give short drawings, and pictures and names that are there, to fields whose values are of the right kind."""
    if isinstance(case.body, dict):
        wanted = {**PICTURES, **NAMES, **(SMALL if case.path in DRAWING else {})}
        case.body |= {name: value for name, value in wanted.items()
                      if alike(case.body.get(name, value if name in SMALL else ...), value)}


def alike(given: object, wanted: object) -> bool:
    """Whether a value is of the kind that is wanted; 48.0 is a whole number in JSON."""
    return type(given) is type(wanted) or type(given) is float and type(wanted) is int


def ask(address: str, examples: int, mode: GenerationMode) -> Counter[int]:
    """So many requests to each route -> how often each status was the answer.  Raises where one is a 5xx."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{address}openapi.json").json())
    schema.config.update(base_url=address)
    answers: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                             derandomize=True, suppress_health_check=[*HealthCheck])
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            help_along(case)
            response = case.call(timeout=300)
            answers[response.status_code] += 1
            case.validate_response(response, checks=[not_a_server_error])

        with contextlib.suppress(hypothesis.errors.Unsatisfiable):      # of a route without fields nothing can be wrong
            check()
    return answers


def test_a_few_requests_to_each_route(address: str):
    answers = ask(address, 3, GenerationMode.POSITIVE)
    assert sum(answers.values()) >= 30 and answers[200] > 15


@pytest.mark.slow
def test_500_requests(address: str):
    right, wrong = (ask(address, examples, mode) for examples, mode in
                    ((70, GenerationMode.POSITIVE), (30, GenerationMode.NEGATIVE)))
    assert sum((right + wrong).values()) >= 500
    assert right[200] > 100 and wrong[422] > 30
