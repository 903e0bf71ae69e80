"""Words: what is accepted, how they are embedded, and how they share the probability with each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch.nn import functional as F

from instformer_ros.model.clip import FALLBACK_ROW, Tokenizer, kept_rows, tokens_of
from instformer_ros.model.instclip import InstClip
from instformer_ros.model.negatives import COMMON
from instformer_ros.model.vocabulary import (
    MAX_LENGTH,
    MAX_WORDS,
    PROMPTS,
    TextEncoder,
    class_scores,
    live_negatives,
    parse_vocabulary,
    validate_names,
)
from instformer_ros.structures import InstformerError


@pytest.fixture(scope="module")
def net() -> InstClip:
    return tiny.instclip()


@pytest.fixture(scope="module")
def encoder(net: InstClip) -> TextEncoder:
    return TextEncoder(net, tiny.clip_config())


# -- what is accepted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([], ()),
        ([""], ()),
        (["  ", "\t\n"], ()),
        ([" mug ", "drill"], ("mug", "drill")),
        (["red \t  mug"], ("red mug",)),
        (["Mug", "mug", "MUG ", "drill"], ("Mug", "drill")),
        (["Straße", "STRASSE"], ("Straße",)),
        (["杯子", "tasse à café", "кружка"], ("杯子", "tasse à café", "кружка")),
        (["x" * MAX_LENGTH], ("x" * MAX_LENGTH,)),
        ([f"{'y' * MAX_LENGTH}   "], ("y" * MAX_LENGTH,)),
    ],
)
def test_words_are_cleaned(names: list[str], wanted: tuple[str, ...]) -> None:
    assert validate_names(names) == wanted


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["fine", "x" * (MAX_LENGTH + 1)], "xxxxxxxx...' has 201 characters; use at most 200"),
        ([f"word {i}" for i in range(MAX_WORDS + 1)], "2001 words; use at most 2000"),
        (["mug", 3], "3 is no text"),
        ([None], "None is no text"),
        (["mug", "caf\udce9"], r"'caf\udce9' is no valid UTF-8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(names: list[str], says: str) -> None:
    with pytest.raises(InstformerError) as caught:
        validate_names(names)
    assert says in str(caught.value)
    assert "vocabulary" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


def test_the_limit_counts_different_words() -> None:
    assert len(validate_names([f"word {i}" for i in range(MAX_WORDS)] + ["WORD 1", " "])) == MAX_WORDS


def test_words_are_split_at_commas() -> None:
    assert parse_vocabulary(" mug,, person with a hat ,drill,") == ["mug", "person with a hat", "drill"]
    assert parse_vocabulary("") == []


# -- embedding --------------------------------------------------------------------------------------------------------


def test_the_prompts_are_those_of_the_paper() -> None:
    sizes = ("small", "medium", "large")
    wanted = [
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        *(f"a photo of a {size} {{}}." for size in sizes),
        *(f"This is a photo of a {size} {{}}" for size in sizes),
        *(f"There is a {size} {{}} in the scene." for size in sizes),
    ]
    assert len(PROMPTS) == 14
    assert list(PROMPTS) == wanted


@torch.no_grad()
def test_each_prompt_counts_alike(net: InstClip, encoder: TextEncoder) -> None:
    """Normalised, averaged, normalised, one text at a time through the library's own text tower."""
    for name, got in zip(tiny.WORDS, encoder(tiny.WORDS), strict=True):
        each = [net.clip.encode_text(encoder.tokenizer([prompt.format(name)]))[0] for prompt in PROMPTS]
        mean = torch.stack([e / e.norm() for e in each]).mean(0)
        assert (got - mean / mean.norm()).abs().max() < 1e-5
    assert (encoder(tiny.WORDS).std(0) > 1e-3).any(), "words differ"


def test_many_words_are_embedded_in_several_passes(encoder: TextEncoder) -> None:
    names = [*tiny.WORDS] * 7  # 588 texts
    embedded = encoder(names)
    assert embedded.shape == (42, 24)
    assert torch.allclose(embedded[-6:], encoder(tiny.WORDS), atol=1e-6)
    assert encoder([]).shape == (0, 24)


def test_the_fingerprint_tells_text_models_apart() -> None:
    first, same, other = tiny.instclip(), tiny.instclip(), tiny.instclip()
    with torch.no_grad():
        same.visual.proj.add_(1.0)  # the picture side is none of its business
        other.clip.text_projection[0, 0] += 1e-3
    prints = [TextEncoder(net, tiny.clip_config()).fingerprint() for net in (first, same, other)]
    assert prints[0] == prints[1] != prints[2]
    quick = replace(tiny.clip_config(), quick_gelu=True)  # the same weights mean something else then
    assert TextEncoder(first, quick).fingerprint() != prints[0]


# -- a pruned token table ---------------------------------------------------------------------------------------------


def test_kept_rows_leave_room_for_the_fallback() -> None:
    assert kept_rows(4) == [0, 2, 3, 4]
    tokens = tokens_of(["a red mug", "a mug"])
    assert list(tokens) == sorted(set(tokens))
    assert tokens[0] == 0
    assert tokens[-1] == 49407, "end of text: CLIP finds it as the highest"


@torch.no_grad()
def test_a_pruned_table_embeds_its_words_as_the_full_one() -> None:
    pruned_config = tiny.clip_config()
    assert pruned_config.tokens is not None
    assert pruned_config.model is not None
    text = {**pruned_config.model["text_cfg"], "vocab_size": 49408}
    full_config = replace(pruned_config, tokens=None, model={**pruned_config.model, "text_cfg": text})
    full = InstClip(full_config, tiny.config().instclip, 2)
    tiny.perturb(full, 5)
    pruned = InstClip(pruned_config, tiny.config().instclip, 2)
    state = full.state_dict()
    rows = torch.randn(len(pruned_config.tokens) + 1, 32)
    rows[kept_rows(len(pruned_config.tokens))] = state["clip.token_embedding.weight"][list(pruned_config.tokens)]
    pruned.load_state_dict({**state, "clip.token_embedding.weight": rows})
    names = (*tiny.WORDS, "blue circle", "green cross")  # other combinations of the same pieces
    small, large = TextEncoder(pruned, pruned_config), TextEncoder(full, full_config)
    assert torch.equal(small(names), large(names))
    assert all(small.tokenizer.knows(name) for name in names)
    assert large.tokenizer.knows("zebra")


def test_pieces_that_were_not_kept_take_the_fallback_row(encoder: TextEncoder) -> None:
    tokenizer = encoder.tokenizer
    known, unknown = tokenizer(["a photo of a mug."]), tokenizer(["a photo of a zebra."])
    assert not (known == FALLBACK_ROW).any()
    assert (unknown == FALLBACK_ROW).sum() == 1
    assert known.argmax() == unknown.argmax(), "the end of the text is found all the same"
    assert int(known.max()) == len(tiny.clip_config().tokens or ())
    assert tokenizer.knows("red mug")
    assert tokenizer.knows("RED Mug")
    assert not tokenizer.knows("zebra")
    assert not tokenizer.knows("red zebra")
    assert torch.equal(encoder(["zebra"]), encoder(["horse"])), "all unknown pieces are the same"


@pytest.mark.parametrize("token", [49408, -1, "mug"])
def test_tokens_that_there_are_not_are_refused(token: object) -> None:
    config = tiny.clip_config()
    with pytest.raises(InstformerError, match="a kept token is no id from 0 to 49407"):
        Tokenizer(replace(config, tokens=(*(config.tokens or ()), token)), 24)  # type: ignore[arg-type]


def test_long_texts_end_with_the_end_of_text(encoder: TextEncoder) -> None:
    row = encoder.tokenizer(["red mug " * 40])
    assert row.shape == (1, 24)
    assert int(row[0, -1]) == int(row.max()) == len(tiny.clip_config().tokens or ())


def test_tokenizer_of_the_full_table_is_the_librarys_own() -> None:
    import open_clip

    texts = ["a photo of a zebra.", "Ünïcode, 杯子 & co"]
    own = open_clip.tokenizer.SimpleTokenizer(context_length=30)(texts)
    assert torch.equal(Tokenizer(replace(tiny.clip_config(), tokens=None), 30)(texts), own)


# -- scores -----------------------------------------------------------------------------------------------------------


def units(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 8, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("with_negatives", [False, True])
def test_permuting_the_vocabulary_permutes_the_scores(with_negatives: bool) -> None:
    tokens, names, negatives = units(5, 0), units(7, 1), units(3, 2) if with_negatives else None
    scale = torch.tensor(3.0, dtype=torch.float64)
    order = torch.tensor([3, 6, 0, 2, 5, 1, 4])
    scores = class_scores(tokens, names, negatives, scale)
    assert scores.std() > 0.05
    assert (class_scores(tokens, names[order], negatives, scale) - scores[:, order]).abs().max() < 1e-12


def test_scores_are_a_softmax_at_clips_temperature() -> None:
    tokens, names, negatives = units(4, 3), units(3, 4), units(2, 5)
    scale = torch.tensor(2.0, dtype=torch.float64)
    plain = class_scores(tokens, names, None, scale)
    strengths = (torch.exp(scale) * tokens @ names.t()).exp()
    assert (plain - strengths / strengths.sum(1, keepdim=True)).abs().max() < 1e-12
    shared = class_scores(tokens, names, negatives, scale)
    rivals = (torch.exp(scale) * tokens @ negatives.t()).exp().sum(1, keepdim=True)
    assert (shared - strengths / (strengths.sum(1, keepdim=True) + rivals)).abs().max() < 1e-12


def test_a_single_word_is_not_the_answer_to_everything() -> None:
    """A softmax over one word is always one; the negatives are there to doubt it."""
    mug, drill = torch.eye(8)[:1], torch.eye(8)[1:2]
    scale = torch.tensor(3.0)
    assert float(class_scores(drill, mug, None, scale)) == 1
    assert float(class_scores(drill, mug, drill, scale)) < 0.01
    assert float(class_scores(mug, mug, drill, scale)) > 0.99


def test_negatives_that_say_the_same_give_way() -> None:
    pool = ("red striped star", "coffee mug", "Mug", "drill", "starfish", "star")
    assert live_negatives(pool, ("mug",)) == ("red striped star", "drill", "starfish", "star")
    assert live_negatives(pool, ("STAR",)) == ("coffee mug", "Mug", "drill", "starfish")
    assert live_negatives(pool, ("striped red star",)) == ("coffee mug", "Mug", "drill", "starfish")
    assert live_negatives(pool, ("zebra",)) == pool
    assert live_negatives((), ("zebra",)) == ()


@pytest.mark.parametrize(
    ("word", "gone"),
    [
        ("couch", ["sofa"]),
        ("furniture", ["sofa", "chair"]),
        ("office chairs", ["chair"]),
        ("wild animal", ["dog"]),
        ("dog", ["dog"]),
        ("hot_dog", ["dog"]),
        ("chairlift", []),
        ("People", ["person"]),
        ("dog house", []),
    ],
)
def test_synonyms_and_broader_words_keep_negatives_away(word: str, gone: list[str]) -> None:
    pool = ("sofa/couch/furniture", "chair/furniture", "dog/animal", "person/people", "sky")
    left = [group.split("/")[0] for group in pool]
    assert live_negatives(pool, (word,)) == tuple(text for text in left if text not in gone)


def test_the_common_negatives_are_clean() -> None:
    texts = live_negatives(COMMON, ())
    assert len(texts) == len(set(texts)) == len(COMMON)
    for text in texts:
        assert text not in live_negatives(COMMON, (text,))
    assert validate_names(texts) == texts
    assert all(part and part == part.strip() for group in COMMON for part in group.split("/"))
