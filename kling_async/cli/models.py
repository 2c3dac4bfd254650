"""``kling-async models``: the models of the service, and the JSON schema of one."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from kling_async._utils.text import format_value
from kling_async._utils.urls import redact_url
from kling_async.cli import exit_codes
from kling_async.cli.document_cache import UnavailableError, cache_folder, fetch_document
from kling_async.cli.output import Output
from kling_async.cli.vendor_models import VendorModel, check_schema, index_url, parse_index
from kling_async.errors import InputError, Problem
from kling_async.inputs.json_schema import model_schema
from kling_async.inputs.registry import DEFAULT_MODES, classes_of

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable


async def run_models(args: Namespace) -> int:
    """Print the models, or the schema of one."""
    output = Output(json=args.json)
    url = index_url()
    listed, remark = await _fetch(url, "list of models", partial(parse_index, url=url))
    models = {} if listed is None else {model.name: model for model in parse_index(listed, url)}
    if args.model is None:
        _print_list(output, models)
    if remark:
        output.print_status(remark)
    if args.model is not None:
        await _print_schema(output, models, args.model)
    return exit_codes.OK


async def _fetch(url: str, name: str, check: Callable[[object], object]) -> tuple[object, str]:
    """Return a document of the vendor's, or None, and a remark about where it comes from."""
    if not url:
        return None, ""
    place = redact_url(url)
    try:
        document = await fetch_document(url, cache_folder(), check)
    except UnavailableError as error:
        return None, f"without the vendor's {name}, {place}: {error}"
    when = f"{document.checked_at:%Y-%m-%d %H:%M} UTC"
    if document.reason:
        when = f"as of {when}; it is not available now: {document.reason}"
    return document.value, f"{place}: {when}"


def _print_list(output: Output, models: dict[str, VendorModel]) -> None:
    """Print the models with classes, then those that only the vendor lists."""
    for name in (*DEFAULT_MODES, *sorted(models.keys() - DEFAULT_MODES.keys())):
        modes = [*classes_of(name)] if name in DEFAULT_MODES else []
        model = models.get(name, VendorModel(name))
        described = ", ".join(modes) or " · ".join(filter(None, (model.title, model.category)))
        fields = {
            "model": name,
            "modes": modes,
            "listed": name in models if models else None,
            "title": model.title or None,
            "category": model.category or None,
            "schema_url": model.schema_url or None,
        }
        output.print_result([f"{name:<24} {described}".rstrip()], fields)


async def _print_schema(output: Output, models: dict[str, VendorModel], name: str) -> None:
    """Print the vendor's schema of a model, or the one of its classes."""
    model = models.get(name, VendorModel(name))
    schema, remark = await _fetch(model.schema_url, "schema", check_schema)
    if remark:
        output.print_status(remark)
    source = model.schema_url if schema is not None else None
    if schema is None and name in DEFAULT_MODES:
        schema = model_schema(name)
    if schema is None:
        rule = "its schema is not available" if name in models else "is not in the list of models"
        raise InputError(problems=[Problem("model", rule, format_value(name))])
    lines = json.dumps(schema, indent=2).split("\n")
    output.print_result(lines, {"model": name, "schema_url": source, "schema": schema})
