"""Every group at every pattern by itself, measured in memory with as little text as decides.

One pattern of each group runs on all of the probe text, the others on the first few chunks, and those whose
place is not decided on more, as long as a quarter of what whole evaluations would take is not used up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mqnative.formats.groups import by_group, label_tensors
from mqnative.formats.qtypes import qtype
from mqnative.hybrids.isolation import F64Vector, Pattern, Sample, carried, leader_of, patterns_of
from mqnative.hybrids.pruning import Choice, Limits, prune, undecided
from mqnative.jobs.candidates import Importances, candidate_types, default_targets
from mqnative.jobs.hybrids.ground import Ground
from mqnative.measure.corpus import Corpus
from mqnative.measure.restart import first_layer
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.study import Study
from mqnative.solve.limits import Limit, TensorFacts

# The share of the text that every pattern runs on; at least this many chunks, for an interval.
_FIRST_SHARE = 3 / 16
_LEAST_CHUNKS = 2
# Of whole passes, one for each pattern and chunk.
MOST_SHARE = 0.25
_REST = "other"


@dataclass(frozen=True)
class Cost:
    """Forward passes.

    Attributes:
        n_passes: that were needed, the reference's own included, whether or not the store had them.
        n_whole: the same in whole passes: one from layer L on costs the share of the layers behind it.
        n_asked: (group, config or type) samples.
        n_patterns: different ones.
        n_chunks: of the whole text.
    """

    n_passes: int = 0
    n_whole: float = 0.0
    n_asked: int = 0
    n_patterns: int = 0
    n_chunks: int = 0

    @property
    def share(self) -> float:
        """Of one whole evaluation for each (group, config or type) sample."""
        return self.n_whole / max(1, self.n_asked * self.n_chunks)

    @property
    def share_of_patterns(self) -> float:
        """Of one whole evaluation for each different sample."""
        return self.n_whole / max(1, self.n_patterns * self.n_chunks)


@dataclass(frozen=True)
class Isolation:
    """What groups lose by themselves, and what the search may use of it.

    Attributes:
        samples: group -> samples, the smallest first.
        choices: what became of each pattern.
        cost: of measuring them.
        tensors: group -> its tensors that may change.
    """

    samples: Mapping[str, tuple[Sample, ...]]
    choices: tuple[Choice, ...]
    cost: Cost
    tensors: Mapping[str, tuple[str, ...]] = field(repr=False)

    @property
    def left(self) -> dict[str, tuple[Sample, ...]]:
        """What was not banned."""
        banned = {(c.group, c.name) for c in self.choices if c.ban is not None}
        return {g: tuple(s for s in found if (g, s.name) not in banned) for g, found in self.samples.items()}


def groups_of(ground: Ground) -> dict[str, tuple[str, ...]]:
    """Group -> tensors that may change, in the order of the letters."""
    may_change = [n for n, types in ground.measured.table.items() if types]
    grouped = {g: tuple(names) for g, names in by_group(label_tensors(may_change)).items()}
    rest = grouped.pop("never", ())
    return grouped | ({_REST: rest} if rest else {})


def patterns(ground: Ground) -> dict[str, list[Pattern]]:
    """Group -> different patterns of baselines and plain types that keep the constraints."""
    targets = ground.options.targets or default_targets()
    limits, importances = ground.options.constraints.limits, ground.measured.importances
    legal = {t: candidate_types(ground.tensors, importances, [t]) for t in targets}
    found = {}
    for group, names in groups_of(ground).items():
        mixes: dict[str, Mapping[str, str]] = {b.name: b.types for b in ground.baselines.values()}
        for target, types in legal.items():
            plain = {n: types[n][0] for n in names if types.get(n)}
            if len(plain) == len(names):
                mixes[target] = plain
        kept = {m: {n: types[n] for n in names} for m, types in mixes.items()}
        kept = {m: {n: bent(ground, n, t, limits) for n, t in types.items()} for m, types in kept.items()}
        own = {n: ground.tensors[n].qtype_name for n in names}
        kept = {m: types for m, types in kept.items() if types != own}
        sizes = {(n, t): ground.tensor_bytes(n, t) for types in kept.values() for n, t in types.items()}
        if kept:
            found[group] = patterns_of(group, names, kept, sizes)
    return found


def bent(ground: Ground, name: str, target: str, limits: Sequence[Limit]) -> str:
    """The type nearest to ``target`` that limits allow: the next larger, else the largest there is."""
    spoken = [limit for limit in limits if limit.matches(name)]
    facts = TensorFacts(source=ground.tensors[name].qtype_name)
    if all(limit.allows(target, facts) for limit in spoken):
        return target
    types = [*ground.measured.table[name], ground.tensors[name].qtype_name]
    allowed = sorted(
        (t for t in types if all(limit.allows(t, facts) for limit in spoken)), key=lambda t: qtype(t).bpw
    )
    larger = [t for t in allowed if qtype(t).bpw >= qtype(target).bpw]
    return (larger or allowed[::-1] or [target])[0]


def isolate(ground: Ground, limits: Limits | None = None) -> Isolation:
    """Measure and judge every pattern of every group on the probe text."""
    found = patterns(ground)
    text = ground.parts.probe.head(ground.options.probe_chunks)
    n = sum(map(len, found.values()))
    with ground.run.step("isolation", f"{n} patterns of {len(found)} groups, {text.n_chunks} chunks"):
        return measure_patterns(
            ground.study, text, found, ground.measured.importances, limits, groups_of(ground)
        )


def measure_patterns(
    study: Study,
    text: Corpus,
    found: Mapping[str, Sequence[Pattern]],
    importances: Importances,
    limits: Limits | None = None,
    tensors: Mapping[str, tuple[str, ...]] | None = None,
) -> Isolation:
    """Measure and judge patterns.

    Args:
        study: the model and its store.
        text: the probe text, its chunks in the order of use.
        found: group -> patterns.
        importances: by tensor name.
        limits: of the judgement.
        tensors: group -> its tensors.
    """
    limits = limits or Limits()
    every = {(g, p.name): p for g, ps in found.items() for p in ps}
    first = min(text.n_chunks, max(_LEAST_CHUNKS, round(_FIRST_SHARE * text.n_chunks)))
    n_chunks = dict.fromkeys(every, first)
    n_chunks |= {(g, leader_of(ps).name): text.n_chunks for g, ps in found.items()}
    layers = {key: _share(study, p) for key, p in every.items()}
    most = MOST_SHARE * len(every) * text.n_chunks

    def whole(chunks: Mapping[tuple[str, str], int]) -> float:
        return sum(n * layers[key] for key, n in chunks.items()) + text.n_chunks

    samples = _measured(study, text, found, n_chunks, importances)
    step = first
    while True:
        step *= 2
        more = dict(n_chunks)
        for group, of_group in samples.items():
            for name in undecided(of_group, limits):
                longer = dict(more)
                longer[group, name] = max(more[group, name], min(step, text.n_chunks))
                if whole(longer) <= most:
                    more = longer
        if more == n_chunks:
            break
        n_chunks = more
        samples = _measured(study, text, found, n_chunks, importances)
    cost = Cost(
        sum(n_chunks.values()) + text.n_chunks,
        whole(n_chunks),
        sum(len(p.sources) for p in every.values()),
        len(every),
        text.n_chunks,
    )
    choices = tuple(c for of_group in samples.values() for c in prune(of_group, limits))
    return Isolation(samples, choices, cost, tensors or {g: tuple(ps[0].types) for g, ps in found.items()})


def _measured(
    study: Study,
    text: Corpus,
    found: Mapping[str, Sequence[Pattern]],
    n_chunks: Mapping[tuple[str, str], int],
    importances: Importances,
) -> dict[str, tuple[Sample, ...]]:
    klds: dict[str, F64Vector] = {}
    # Those on the same chunks together, so that the reference runs once for all of them.
    for n in sorted(set(n_chunks.values())):
        mixes = {f"{g} {p.name}": p.types for g, ps in found.items() for p in ps if n_chunks[g, p.name] == n}
        means = mix_means(study, "isolation", text.head(n), mixes, importances)
        klds |= {name: m.kld for name, m in means.items()}
    samples = {}
    for group, of_group in found.items():
        leader = klds[f"{group} {leader_of(of_group).name}"]
        samples[group] = tuple(
            Sample(p, klds[f"{group} {p.name}"], carried(klds[f"{group} {p.name}"], leader)) for p in of_group
        )
    return samples


def _share(study: Study, pattern: Pattern) -> float:
    """What a pass costs of a whole one."""
    n_layer = study.file.integer(f"{study.file.architecture}.block_count", 0)
    return 1.0 - first_layer(pattern.types, n_layer) / (n_layer + 1)
