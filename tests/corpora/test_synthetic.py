"""The artificial hospitals: exact gold, all labels, and no notes that can be learnt by heart."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.card import load_card
from fedmedlora.corpora.jsonl import read_jsonl
from fedmedlora.corpora.sentences import sentence_spans
from fedmedlora.corpora.synthetic import FIVE, generate_site, hospital, roster, synthesize
from fedmedlora.corpora.synthetic.grammar import Choice, Mark, Use, parse_rules
from fedmedlora.corpora.synthetic.hospitals import grammar
from fedmedlora.inference.rule_linker import link_by_rule

SCHEMA = default_schema()
NAMES = [site.name for site in FIVE]
TRAINING = [site.name for site in FIVE if site.role == "train"]
HELD_OUT = [site.name for site in FIVE if site.role == "external"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def sites(folders):
    return {folder.name: read_jsonl(folder / "documents.jsonl") for folder in folders}


def main_entities(document):
    return {(e.start, e.end, e.label) for e in document.entities if e.label in SCHEMA.entity_labels}


def mentions(documents, label):
    return {d.entity_text(e).lower() for d in documents for e in d.entities if e.label == label}


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# What is written


def test_the_same_arguments_write_the_same_bytes_and_another_seed_other_notes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthesize(tmp_path / name, num_notes=5, seed=seed)
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")
    first, other = all_bytes(tmp_path / "a"), all_bytes(tmp_path / "c")
    assert first.keys() == other.keys()
    assert all(first[f] != other[f] for f in first if f.endswith("documents.jsonl"))


@pytest.mark.parametrize("name", NAMES)
def test_a_note_does_not_depend_on_how_many_follow(name):
    assert generate_site(name, 4, 0) == generate_site(name, 9, 0)[:4]


def test_a_hospital_goes_by_its_name_or_its_place():
    assert generate_site(3, 2, 0) == generate_site(HELD_OUT[0], 2, 0)


def test_the_cards_name_three_training_and_two_held_out_hospitals(folders, sites):
    cards = [load_card(folder / "corpus.toml") for folder in folders]
    assert [card.name for card in cards] == NAMES
    assert [card.role for card in cards] == ["train"] * 3 + ["external"] * 2
    for card in cards:
        notes = sites[card.name]
        assert card.licence == "CC0-1.0"
        assert "artificial" in card.style
        assert card.num_documents == len(notes)
        assert card.num_entities == sum(len(d.entities) for d in notes)
        assert card.num_relations == sum(len(d.relations) for d in notes)


def test_the_average_hospital_has_the_number_of_notes_asked_for_and_sizes_differ(sites):
    sizes = [len(notes) for notes in sites.values()]
    assert sum(sizes) == 5 * 40
    assert max(sizes) >= 1.4 * min(sizes)


def test_every_note_says_that_it_is_artificial(sites):
    for name, notes in sites.items():
        for document in notes:
            assert document.metadata["artificial"] is True
            assert document.metadata["style"] == hospital(name).style
            assert document.metadata["patient_id"].startswith(name)


def test_some_patients_have_two_notes_and_none_has_three(sites):
    counts = Counter(d.metadata["patient_id"] for d in sites["birch-clinic"])
    assert set(counts.values()) == {1, 2}


@pytest.mark.parametrize("num_sites", [1, 4, 9])
def test_more_or_fewer_hospitals_can_be_had(tmp_path, num_sites):
    folders = synthesize(tmp_path, num_sites=num_sites, num_notes=2)
    assert len(folders) == num_sites
    assert [f.name for f in folders[:5]] == NAMES[:num_sites]
    held_out_styles = {hospital(name).style for name in HELD_OUT}
    for folder in folders[5:]:
        assert hospital(folder.name).style not in held_out_styles


def test_a_further_hospital_shares_its_style_but_not_its_words():
    later, first = generate_site(5, 30, 0), generate_site(0, 30, 0)
    assert later[0].metadata["style"] == first[0].metadata["style"]
    theirs = mentions(later, "test") | mentions(later, "drug")
    assert len(theirs - mentions(first, "test") - mentions(first, "drug")) > 0.3 * len(theirs)


@pytest.mark.parametrize("wrong", [{"num_sites": 0}, {"num_sites": 99}, {"num_notes": 0}])
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ConfigError, match="expected"):
        synthesize(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_an_unknown_hospital_is_refused():
    with pytest.raises(ConfigError, match="alder-icu"):
        generate_site("general", 1, 0)


# What is annotated


def test_five_hospitals_show_every_label_and_every_allowed_pair_and_no_other(sites):
    labels = {e.label for notes in sites.values() for d in notes for e in d.entities}
    assert labels == set(SCHEMA.labels)
    pairs = set()
    for notes in sites.values():
        for document in notes:
            label = {e.id: e.label for e in document.entities}
            pairs |= {(label[r.head], label[r.tail]) for r in document.relations}
    assert pairs == {(m, e) for e, ms in SCHEMA.allowed_pairs.items() for m in ms}


@pytest.mark.parametrize("name", NAMES)
def test_a_hospital_marks_only_the_labels_of_its_card(folders, sites, name):
    card = load_card(folders[NAMES.index(name)] / "corpus.toml")
    found = {e.label for d in sites[name] for e in d.entities}
    assert found <= set(card.annotated_labels)
    assert set(card.annotated_labels) < set(SCHEMA.labels), "none annotates everything"


def test_the_clinic_mentions_tests_that_nobody_marked(sites):
    known = {m for m in mentions(sites["alder-icu"], "test") if len(m) > 4}
    text = " ".join(d.text.lower() for d in sites["birch-clinic"])
    assert sum(f" {m} " in text for m in known) >= 3
    assert not mentions(sites["birch-clinic"], "test")


def test_only_place_course_and_severity_lie_inside_a_problem_and_nothing_else_overlaps(sites):
    inside = Counter()
    for notes in sites.values():
        for d in notes:
            spans = sorted(d.entities, key=lambda e: (e.start, -e.end))
            for i, outer in enumerate(spans):
                for inner in spans[i + 1 :]:
                    if inner.start >= outer.end:
                        break
                    assert outer.cover.contains(inner.cover)
                    inside[outer.label, inner.label] += 1
    assert set(inside) == {("problem", m) for m in ("bodyloc", "course", "severity")}


def test_mentions_have_neither_white_space_nor_an_article_at_their_ends(sites):
    for notes in sites.values():
        for document in notes:
            for entity in document.entities:
                text = document.entity_text(entity)
                assert text == text.strip()
                assert "\n" not in text
                if entity.label in SCHEMA.entity_labels:
                    assert not re.match(r"(an?|the) ", text, re.IGNORECASE), document.id


def test_modifiers_are_linked_to_one_to_several_and_to_no_entity(sites):
    links = Counter()
    for notes in sites.values():
        for document in notes:
            heads = Counter(r.head for r in document.relations)
            links.update(
                min(heads[e.id], 2) for e in document.entities if e.label in SCHEMA.modifier_labels
            )
    assert all(links[number] >= 10 for number in (0, 1, 2))


def test_the_notes_hold_what_breaks_careless_code(sites):
    text = {name: "".join(d.text for d in notes) for name, notes in sites.items()}
    assert "\r\n" in text["birch-clinic"]
    assert not re.search(r"(?<!\r)\n", text["birch-clinic"])
    assert "\t" in text["alder-icu"]
    assert "<" in text["alder-icu"]
    for sign in "µ°é":
        assert any(sign in t for t in text.values())


def test_nothing_of_the_notation_is_left_in_the_text(sites):
    for notes in sites.values():
        for document in notes:
            assert not re.search(r"[{}^~\0]|<[a-z#]|a\(n\)|  ,| \.(?!\d)", document.text)


# How varied the notes are


def skeletons(documents):
    """Sentences with at least four words beside their mentions; those as labels, numbers as 0."""
    found = []
    for d in documents:
        outer, at, out = 0, 0, []
        for e in sorted(d.entities, key=lambda e: (e.start, -e.end)):
            if e.start >= outer:
                out += [d.text[at : e.start], e.label.upper()]
                at = outer = e.end
        text = re.sub(r"\d+", "0", "".join([*out, d.text[at:]]))
        parts = re.split(r"(?<=[.;])\s+|\n+| period | full stop ", text)
        found += [p.strip() for p in parts if len(re.findall(r"\b\w*[a-z]\w*", p)) > 3]
    return found


def grams(documents, size=5):
    found = set()
    for skeleton in skeletons(documents):
        words = skeleton.lower().split()
        found |= {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_few_sentences_of_forty_notes_have_the_same_skeleton(name):
    found = skeletons(generate_site(name, 40, 0))
    assert len(set(found)) > 0.65 * len(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_style_has_at_least_sixty_sentence_productions(name):
    rules, _ = grammar(name)
    assert sum(len(p) for rule, p in rules.items() if rule.startswith("s_")) >= 60


def test_hospitals_share_few_runs_of_words(sites):
    runs = {name: grams(notes) for name, notes in sites.items()}
    for name in NAMES:
        for other in NAMES:
            if name < other:
                smaller = min(len(runs[name]), len(runs[other]))
                assert len(runs[name] & runs[other]) < 0.1 * smaller, (name, other)


def test_held_out_hospitals_use_words_that_training_hospitals_do_not(sites):
    for label in SCHEMA.entity_labels:
        seen = set().union(*(mentions(sites[name], label) for name in TRAINING))
        for name in HELD_OUT:
            here = mentions(sites[name], label)
            assert not here or len(here - seen) > 0.6 * len(here), (name, label)
    shared = mentions(sites["dogwood-triage"], "test") & mentions(sites["alder-icu"], "test")
    assert shared, "some names are common to all, as in life"


def test_each_training_hospital_sees_words_that_the_others_do_not(sites):
    drugs = {name: mentions(sites[name], "drug") for name in TRAINING}
    for name in TRAINING:
        others = set().union(*(drugs[other] for other in TRAINING if other != name))
        assert drugs[name] - others
        assert drugs[name] & others


def test_hundreds_of_notes_hold_hundreds_of_different_mentions():
    documents = [d for name in TRAINING for d in generate_site(name, 150, 1)]
    expected = {"problem": 2000, "drug": 300, "test": 350, "treatment": 200}
    for label, number in expected.items():
        assert len(mentions(documents, label)) > number, label


# How hard the notes are


class Dictionary:
    """Marks, longest first, what the training notes marked, with its most frequent label."""

    def __init__(self, documents):
        counts = defaultdict(Counter)
        for d in documents:
            for start, end, label in main_entities(d):
                counts[self.words(d.text[start:end])][label] += 1
        self.labels = {key: found.most_common(1)[0][0] for key, found in counts.items()}

    @staticmethod
    def words(text):
        return tuple(word.lower() for word in re.findall(r"\w+|\S", text))

    def mark(self, document):
        found = [(m.start(), m.end(), m[0].lower()) for m in re.finditer(r"\w+|\S", document.text)]
        spans, at = set(), 0
        while at < len(found):
            for length in range(10, 0, -1):
                run = found[at : at + length]
                label = self.labels.get(tuple(word for _, _, word in run))
                if len(run) == length and label in document.annotated_labels:
                    spans.add((run[0][0], run[-1][1], label))
                    at += length - 1
                    break
            at += 1
        return spans

    def f1(self, documents):
        hits = predicted = gold = 0
        for d in documents:
            expected, marked = main_entities(d), self.mark(d)
            hits += len(expected & marked)
            predicted, gold = predicted + len(marked), gold + len(expected)
        return 2 * hits / (predicted + gold)


def test_a_dictionary_of_the_training_notes_is_a_poor_annotator_and_three_sites_beat_one():
    notes = {site.name: generate_site(site.name, 40, 0) for site in FIVE}
    train = {name: notes[name][:30] for name in TRAINING}
    held_out = [d for name in HELD_OUT for d in notes[name]]
    pooled = Dictionary([d for name in TRAINING for d in train[name]])
    assert pooled.f1([d for name in TRAINING for d in train[name]]) > 0.75, "the oracle works"
    for name in TRAINING:
        alone = Dictionary(train[name])
        assert alone.f1(notes[name][30:]) < 0.7, name
        assert pooled.f1(notes[name][30:]) < 0.75, name
        assert alone.f1(held_out) < pooled.f1(held_out) < 0.45, name


def links(document):
    return {(r.head, r.tail) for r in document.relations}


def rule_f1(documents):
    """How well distance and type alone find the links of the gold mentions."""
    hits = total = 0
    for document in documents:
        gold, found = links(document), links(link_by_rule(document))
        hits += len(gold & found)
        total += len(gold) + len(found)
    return 2 * hits / total


def heads_of_modifiers(documents):
    """How many modifiers belong to no, to one and to several entities."""
    counts = Counter()
    for document in documents:
        heads = Counter(head for head, _ in links(document))
        counts.update(
            min(heads[e.id], 2) for e in document.entities if e.label in SCHEMA.modifier_labels
        )
    return counts


@pytest.mark.parametrize("name", NAMES)
def test_links_are_as_hard_as_those_of_real_notes(name):
    documents = generate_site(name, 120, 0)
    assert 0.74 < rule_f1(documents) < 0.88
    heads = heads_of_modifiers(documents)
    assert heads[0] > 0.03 * heads.total()
    assert heads[2] > 0.08 * heads.total()
    assert 0.1 < (heads[0] + heads[2]) / heads.total() < 0.25


@pytest.mark.parametrize("name", [site.name for site in roster()[len(FIVE) :]])
def test_distance_and_type_do_not_tell_the_links_of_a_further_hospital(name):
    documents = generate_site(name, 15, 0)
    assert rule_f1(documents) < 0.92
    assert heads_of_modifiers(documents)[2] > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_link_is_allowed_and_most_lie_within_one_sentence(name):
    within = total = 0
    for document in generate_site(name, 40, 0):
        entities = {e.id: e for e in document.entities}
        sentences = sentence_spans(document.text)
        for head, tail in links(document):
            modifier, entity = entities[head], entities[tail]
            assert SCHEMA.allows(modifier.label, entity.label)
            total += 1
            within += any(
                s.start <= min(modifier.start, entity.start)
                and max(modifier.end, entity.end) <= s.end
                for s in sentences
            )
    assert within > 0.95 * total


# The grammar


def nodes_of(nodes):
    for node in nodes:
        yield node
        if isinstance(node, Choice):
            for option in node.options:
                yield from nodes_of(option)
        elif isinstance(node, Mark):
            yield from nodes_of(node.body)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_label_and_handle_that_a_grammar_uses_exists(name):
    rules, _ = grammar(name)
    faults = []
    for rule, productions in rules.items():
        for production in productions:
            nodes = list(nodes_of(production.nodes))
            handles = {n.handle for n in nodes if isinstance(n, Use | Mark)}
            for node in nodes:
                if isinstance(node, Use):
                    both = {f"{node.rule}_m", f"{node.rule}_f"} <= rules.keys()
                    if node.rule not in rules and not both:
                        faults.append((rule, node.rule))
                elif isinstance(node, Mark):
                    if node.label not in SCHEMA.labels:
                        faults.append((rule, node.label))
                    faults += [(rule, t) for t in node.targets if t not in handles]
    assert faults == []


@pytest.mark.parametrize(
    "line", ["[a|b", "{drug:aspirin", "<Rule>", "a ] b", "<#9-x>", "{drug aspirin}"]
)
def test_a_line_that_breaks_the_notation_is_refused_with_its_place(line):
    with pytest.raises(CorpusError, match=r"notes\.txt, line 2, column \d+"):
        parse_rules(f"rule:\n  {line}\n", "notes.txt")
