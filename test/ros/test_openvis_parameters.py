"""The openvis node with a made-up engine: parameters, good and bad, live and at the start."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from ros_fakes import Loader
from ros_rig import Start
from ros_world import World, wait_for

from instformer_ros.nodes.openvis_node import OpenVisNode
from instformer_ros.settings import Settings
from instformer_ros.structures import InstformerError


def test_a_good_value_takes_effect_and_a_bad_one_is_refused_with_a_reason(start: Start) -> None:
    rig = start()
    assert [i.track_id for i in rig.answer().instances] == [2]
    assert rig.set("score_threshold", 0.2).successful
    assert [i.track_id for i in rig.answer().instances] == [1, 2]
    for value in (1.5, -0.1, float("nan")):
        result = rig.set("score_threshold", value)
        assert not result.successful and "score_threshold" in result.reason
    for name, value, word in [
        ("max_coast", -1, "max_coast"),
        ("life_cycle", "eternal", "managed, slots"),
        ("image_reliability", "perhaps", "best_effort"),
        ("score_threshold", "high", "type"),
        ("autostart", False, "read-only"),
        ("model", "other", "unconfigured"),
        ("device", "cuda", "unconfigured"),
        ("cameras", ["a"], "unconfigured"),
        ("overlay_opacity", 2.0, "overlay_opacity"),
    ]:
        result = rig.set(name, value)
        assert not result.successful and word in result.reason, (name, result.reason)
    assert [i.track_id for i in rig.answer().instances] == [1, 2]
    assert rig.set("class_scores", True).successful and rig.set("vocabulary", ["a", "b"]).successful
    wait_for(lambda: rig.vocabularies[1:])
    assert list(rig.answer().instances[0].class_scores) == [0.125, 0.125]


@pytest.mark.parametrize("nothing", [Parameter.Type.BOOL_ARRAY, Parameter.Type.BYTE_ARRAY, Parameter.Type.STRING_ARRAY])
def test_values_as_a_shell_writes_them(start: Start, nothing: Parameter.Type) -> None:
    """What `ros2 param set` makes of 1, of "cup, saucer" and of []."""
    rig = start()
    assert rig.set("latency_warn", 2).successful
    assert rig.node.get_parameter("latency_warn").value == 2.0
    assert rig.set("vocabulary", "cup, saucer").successful
    wait_for(lambda: rig.vocabularies[1:], what="the change")
    assert list(rig.vocabularies[1].names) == ["cup", "saucer"]
    request = SetParameters.Request(parameters=[Parameter("vocabulary", nothing, []).to_parameter_msg()])
    assert rig.world.call(SetParameters, "openvis/set_parameters", request).results[0].successful
    wait_for(lambda: rig.vocabularies[2:], what="the change")
    assert list(rig.vocabularies[2].names) == []
    for name, value in (("max_coast", 1.5), ("latency_warn", True), ("publish_masks", 1), ("vocabulary", 3)):
        assert "type" in rig.set(name, value).reason, name


def test_every_parameter_is_described(start: Start, world: World) -> None:
    from instformer_ros.nodes.openvis_parameters import PARAMETERS

    rig = start()
    names = [spec.name for spec in PARAMETERS]
    response = world.call(DescribeParameters, "openvis/describe_parameters", DescribeParameters.Request(names=names))
    for spec, descriptor in zip(PARAMETERS, response.descriptors, strict=True):
        assert len(descriptor.description) > 20, spec.name
        if isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool):
            assert descriptor.integer_range or descriptor.floating_point_range, spec.name
    assert rig.state == "active"


def test_every_setting_of_the_engine_is_a_parameter_of_the_same_range() -> None:
    from instformer_ros.nodes.openvis_parameters import PARAMETERS, SETTINGS

    specs = {spec.name: spec for spec in PARAMETERS}
    for name in SETTINGS:
        spec = specs[name]
        assert spec.default == getattr(Settings(), name)
        for allowed in (spec.least, spec.most, *spec.choices):
            if allowed is not None:
                Settings(**{name: allowed})
        for end, step in ((spec.least, -1), (spec.most, 1)):
            if end is not None:
                with pytest.raises(InstformerError):
                    Settings(**{name: end + step})


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"score_threshold": 3.0}, "'score_threshold' is out of its range: use 0 to 1"),
        ({"diagnostic_updater.period": -1.0}, "diagnostic_updater.period"),
        ({"diagnostic_updater.period": 1}, "diagnostic_updater.period"),
        ({"max_instances": "many"}, "max_instances"),
        ({"vocabulary": "a, b"}, "vocabulary"),
        ({"cameras": ["front", "front"]}, "front"),
        ({"cameras": ["9 lives"]}, "9 lives"),
    ],
)
def test_a_bad_value_at_the_start_is_a_line_of_its_own(world: World, parameters: dict[str, Any], word: str) -> None:
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    with pytest.raises(InstformerError) as refusal:
        OpenVisNode(Loader(), parameter_overrides=overrides, **world.node_arguments)
    assert word in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_empty_list_at_the_start_is_no_words(start: Start) -> None:
    rig = start(start=False, cameras=None, vocabulary=None)  # what rcl makes of `-p vocabulary:="[]"`
    assert rig.node.get_parameter("vocabulary").value == rig.node.get_parameter("cameras").value == [""]


@pytest.mark.parametrize(
    ("topic", "policy", "value", "state"),
    [
        ("openvis/instances.publisher", "depth", -4, "unconfigured"),
        ("openvis/vocabulary.publisher", "reliability", "perhaps", "unconfigured"),
        ("image.subscription", "history", "all", "inactive"),
    ],
)
def test_quality_of_service_that_there_is_not(
    start: Start, world: World, topic: str, policy: str, value: Any, state: str
) -> None:
    name = f"qos_overrides.{world.namespace}/{topic}.{policy}"
    rig = start(start=False, **{name: value})
    rig.node.start()
    wait_for(lambda: rig.said("look at its qos_overrides"), what="the reason")
    time.sleep(1.2)  # what was half made calls back within a second
    assert rig.state == state and not rig.said("Traceback")
