"""A trained network with one part changed: the rows of the paper's ablations (Tab. 4, 5 and 7), one option each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from instformer_ros.model.config import Association, Classifier, Guidance, ModelConfig, Rollout
from instformer_ros.model.instformer import InstFormer
from instformer_ros.structures import InstformerError


@dataclass(frozen=True)
class Variant:
    """What differs from a checkpoint; None = as it is there."""

    classifier: Classifier | None = None
    guidance: Guidance | None = None
    register_visible: bool | None = None
    association: Association | None = None
    rollout: Rollout | None = None

    def config(self, config: ModelConfig) -> ModelConfig:
        """``config`` with these changes."""
        instclip = {"guidance": self.guidance, "register_visible": self.register_visible}
        rollout = {"association": self.association, "kind": self.rollout}
        return replace(
            config,
            classifier=self.classifier or config.classifier,
            instclip=replace(config.instclip, **{k: v for k, v in instclip.items() if v is not None}),  # type: ignore[arg-type]
            rollout=replace(config.rollout, **{k: v for k, v in rollout.items() if v is not None}),  # type: ignore[arg-type]
        )


def vary(model: InstFormer, variant: Variant) -> InstFormer:
    """``model`` with the changes of ``variant``: its weights, copied; itself where nothing changes.

    Raises:
        InstformerError: the model's rollout tracker was trained for something else.
    """
    config = variant.config(model.config)
    if config == model.config:
        return model
    before, after = model.config.rollout, config.rollout
    if after.kind != "none" and (after.kind, after.association) != (before.kind, before.association):
        raise InstformerError(
            f"model '{config.name}' has a rollout tracker '{before.kind}' for {before.association}, none "
            f"'{after.kind}' for {after.association}; use rollout none, or train one (instformer ablate)"
        )
    varied = InstFormer(config)
    wanted = varied.state_dict()
    varied.load_state_dict({key: value for key, value in model.state_dict().items() if key in wanted})
    return varied.train(model.training)
