"""What ``instformer train`` does with its options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from instformer_ros.training import curves, run
from instformer_ros.training.annotated import STAGES, Work, train_annotated
from instformer_ros.training.config import find_config, read_config
from instformer_ros.training.journal import check_tensorboard
from instformer_ros.training.loop import Session
from instformer_ros.training.mixture import Source
from instformer_ros.training.recipe import Recipe
from instformer_ros.training.runtime import keep_memory
from instformer_ros.training.team import join
from instformer_ros.training.validation import check_evaluation


def train_toyvis(options: argparse.Namespace) -> None:
    """``instformer train toyvis``. Raises InstformerError: whatever is wrong with options, folder or machine."""
    plan = run.SMOKE if options.smoke else run.Plan()
    if options.config:
        plan = read_config(Path(options.config), plan)
    with _session(options) as session:
        validation = options.validation if options.evaluate_every else 0
        path = run.train_toyvis(plan, options.seed, session, validation)
        _finish(session, path, run.STAGES)


def train_dataset(options: argparse.Namespace) -> None:
    """``instformer train youtube-vis`` and the like. Raises InstformerError, as above."""
    recipe = read_config(find_config(options.config), Recipe())
    validation = (options.validation_annotations, options.validation_images)
    work = Work(
        options.dataset,
        options.annotations,
        options.images,
        options.model,
        options.stage,
        validation if all(validation) else None,
        options.validation,
        tuple(Source(*values) for values in options.also),
    )
    with _session(options) as session:
        _finish(session, train_annotated(work, recipe, options.seed, session), STAGES)


@contextmanager
def _session(options: argparse.Namespace) -> Iterator[Session]:
    """What the run needs is asked for here, before it takes hours."""
    if options.tensorboard:
        check_tensorboard()
    if options.evaluate_every and options.what == "toyvis":
        check_evaluation()
    keep_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    with join(options.device) as team:
        if team.leads and not curves.can_plot():
            print("matplotlib is not installed, so there will be no curves.png (pip install matplotlib)")
        yield Session(
            options.output,
            team,
            workers=options.workers,
            accumulate=options.accumulate,
            evaluate_every=options.evaluate_every,
            tensorboard=options.tensorboard,
        )


def _finish(session: Session, checkpoint: Path, stages: Sequence[str]) -> None:
    if not session.team.leads:
        return
    print(f"checkpoint: {checkpoint}")
    if curves.can_plot():
        print(f"curves: {curves.plot_curves(session.folder, stages)}")
