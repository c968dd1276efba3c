from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import pytest

from batch_pipeline.config import Settings, load_settings
from batch_pipeline.deploy.infrastructure import Infrastructure

#: moto takes the zones of no other region.
REGION = "us-east-1"
ACCOUNT = "123456789012"

SettingsOf = Callable[..., Settings]


@pytest.fixture
def settings_of(tmp_path: Any) -> SettingsOf:
    """Settings for AWS: `settings_of(**{"store.bucket": "b"})`."""

    def make(**flags: Any) -> Settings:
        return load_settings(
            {"backend.name": "aws", "aws.region": REGION, "deploy.stack": "lab", **flags}, environ={}, folder=tmp_path
        )

    return make


class MotoAsAws:
    """What moto's CloudFormation and Batch do otherwise than AWS, put right where these tests meet it.

    - `Fn::ForEach` is expanded, as the transform AWS::LanguageExtensions does.
    - The default of a list is a list, and the value of a parameter is told as text.
    - `RetainExceptOnCreate` keeps a resource of a stack that was made.
    - A compute environment needs no service role: Batch has its own.
    - A resource whose condition does not hold is not changed, as it is not there.
    - What a change set makes has outputs, and the parameters that it came with.
    """

    @staticmethod
    def template(template: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
        resources: dict[str, Any] = {}
        for name, resource in template.get("Resources", {}).items():
            if name.startswith("Fn::ForEach::"):
                resources |= MotoAsAws.each(resource, template, parameters)
            else:
                resources[name] = resource
        for resource in resources.values():
            if resource.get("DeletionPolicy") == "RetainExceptOnCreate":
                resource["DeletionPolicy"] = "Retain"
            if resource["Type"] == "AWS::Batch::ComputeEnvironment":
                resource["Properties"]["ServiceRole"] = {"Fn::GetAtt": ["InstanceRole", "Arn"]}
        slots = {name: dict(slot) for name, slot in template["Parameters"].items()}
        for slot in slots.values():
            if slot["Type"] == "CommaDelimitedList" and isinstance(slot.get("Default"), str):
                slot["Default"] = slot["Default"].split(",")
        return {**template, "Resources": resources, "Parameters": slots}

    @staticmethod
    def each(loop: list[Any], template: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
        variable, collection, body = loop
        name = collection["Ref"]
        items = parameters.get(name, template["Parameters"][name]["Default"]).split(",")

        def filled(value: Any, item: str) -> Any:
            if isinstance(value, dict):
                return {filled(key, item): filled(inner, item) for key, inner in value.items()}
            if isinstance(value, list):
                return [filled(inner, item) for inner in value]
            if not isinstance(value, str):
                return value
            letters = re.sub(r"[^A-Za-z0-9]", "", item)
            return value.replace(f"${{{variable}}}", item).replace(f"&{{{variable}}}", letters)

        made: dict[str, Any] = {}
        for item in items:
            made |= filled(body, item)
        return made


@cache
def _motos_parser() -> Callable[[str], dict[str, Any]]:
    """The parser as it is before a test exchanges it."""
    from moto.cloudformation.models import Stack

    return Stack.parse_template


@cache
def _parsed_once(template: str) -> str:
    return json.dumps(_motos_parser()(template), default=str)


def _parsed(template: str) -> dict[str, Any]:
    """The template as moto parses it, which takes a third of a second, but once."""
    parsed: dict[str, Any] = json.loads(_parsed_once(template))
    return parsed


@pytest.fixture
def moto_as_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `MotoAsAws`."""
    # A second to import, which tests that need none of it do not pay.
    from moto.cloudformation import models as cloudformation
    from moto.cloudformation import parsing

    _motos_parser()
    execute = cloudformation.CloudFormationBackend.execute_change_set

    def parse_as_aws(self: Any) -> None:
        self.template_dict = MotoAsAws.template(_parsed(self.template), self.parameters)

    def execute_as_aws(self: Any, change_set_name: str, stack_name: str | None = None) -> None:
        execute(self, change_set_name, stack_name)
        change_set = self.change_sets[change_set_name]
        stack = self.stacks[change_set.stack_id]
        stack.template_dict = change_set.template_dict
        stack.parameters = change_set.parameters
        stack.output_map = stack._create_output_map()

    change = parsing.parse_and_update_resource

    def change_as_aws(name: str, resource: dict[str, Any], resources: Any, account_id: str, region_name: str) -> Any:
        condition = resource.get("Condition")
        if condition and not resources.lazy_condition_map[condition]:
            return None
        if resources[name] is None:
            return parsing.parse_and_create_resource(name, resource, resources, account_id, region_name)
        return change(name, resource, resources, account_id, region_name)

    def told(self: Any) -> dict[str, str]:
        values = self.resource_map.resolved_parameters
        return {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}

    def listed(self: Any) -> list[dict[str, str]]:
        return [{"ParameterKey": name, "ParameterValue": value} for name, value in told(self).items()]

    monkeypatch.setattr(parsing, "parse_and_update_resource", change_as_aws)
    monkeypatch.setattr(cloudformation.Stack, "stack_parameters", property(told))
    monkeypatch.setattr(cloudformation.Stack, "parameter_list", property(listed))
    monkeypatch.setattr(cloudformation.Stack, "parse_template", staticmethod(_parsed))
    monkeypatch.setattr(cloudformation.ChangeSet, "_parse_template", parse_as_aws)
    monkeypatch.setattr(cloudformation.CloudFormationBackend, "execute_change_set", execute_as_aws)


#: Reads each service's model once for all tests: every session would else read it anew, in a third of a second.
LOADER = botocore.loaders.create_loader()


@pytest.fixture
def aws(moto_as_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty AWS account, in this process."""
    from moto import mock_aws

    monkeypatch.setattr(botocore.session, "create_loader", lambda *_: LOADER)
    # boto3's own session adds its models to its loader, and is kept for the process.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        yield


class Heard(list[str]):
    """What was said."""

    def __call__(self, sentence: str) -> None:
        self.append(sentence)


@pytest.fixture
def said() -> Heard:
    return Heard()


@pytest.fixture
def infrastructure(said: Heard, settings_of: SettingsOf) -> Callable[..., Infrastructure]:
    """`infrastructure(**{"store.bucket": "b"})`; nothing is waited for."""

    def make(**flags: Any) -> Infrastructure:
        return Infrastructure(settings_of(**flags), say=said, sleep=lambda _: None)

    return make
