"""Makes questions and answers about the poets from their biographies and poems."""

import random
import re
from collections import Counter, defaultdict

# The last two of each list are held out of training and used for validation only.
DYNASTY = ["{n}是哪个朝代的人？", "{n}是哪朝人？", "{n}是什么朝代的诗人？", "{n}生活在哪个朝代？",
           "{n}是哪一朝的诗人？", "请问{n}是哪个朝代的？", "{n}是哪代人？", "{n}属于哪个朝代？",
           "诗人{n}是哪个朝代的？", "{n}的朝代是什么？", "{n}是何朝人？", "{n}在哪个朝代？",
           "你知道{n}是哪个朝代的人吗？", "{n}是什么时代的人？", "{n}哪个朝代", "{n}是唐代人还是宋代人？",
           "{n}生于哪个朝代？", "{n}是什么朝代的人？", "{n}是哪个年代的人？", "诗人{n}生活在什么朝代？",
           "说说{n}是哪朝人。", "告诉我{n}的朝代。", "我想知道{n}是哪个朝代的人。", "{n}，哪朝人？",
           "问一下，{n}是哪个朝代的诗人？", "{n}是哪朝的？", "请告诉我{n}是哪个朝代的人。",
           "想问{n}是什么时代的人？", "{n}这位诗人是哪朝的？", "写诗的{n}是哪代人？",
           "告诉我{n}是哪朝的诗人。", "{n}活在什么朝代？"]
WHO = ["{n}是谁？", "谁是{n}？", "{n}是什么人？", "介绍一下{n}。", "请介绍{n}。", "你知道{n}吗？",
       "说说{n}。", "{n}是哪位诗人？", "讲讲{n}是谁。", "{n}是个什么样的人？"]
WORKS = ["{n}写过什么诗？", "{n}有哪些作品？", "{n}的诗有哪些？", "{n}写了什么？", "列举{n}的诗。",
         "{n}写过哪些诗？", "{n}有什么诗？"]
COURTESY = ["{n}字什么？", "{n}的字是什么？", "{n}的表字是什么？", "{n}表字叫什么？", "{n}字是什么？"]
ART_NAME = ["{n}号什么？", "{n}的号是什么？", "{n}的别号是什么？", "{n}别号叫什么？", "{n}自号什么？"]
WROTE = ["《{t}》是谁写的？", "《{t}》的作者是谁？", "谁写了《{t}》？", "《{t}》是哪位诗人的作品？",
         "谁是《{t}》的作者？", "《{t}》出自谁手？"]
ME_DYNASTY = ["你是哪朝人？", "你是哪个朝代的人？", "你生活在哪个朝代？", "你是什么朝代的诗人？",
              "你活在哪个朝代？", "你是哪个朝代的诗人？"]
ME_WHO = ["你是谁？", "你叫什么？", "你叫什么名字？", "请问你是谁？", "你的名字是什么？"]
ME_COURTESY = ["你字什么？", "你的字是什么？", "你的表字是什么？"]

# Poets with fewer poems than this are neither asked about nor called unknown.
KNOWN_POEMS = 3

_UNCERTAIN = re.compile("（[^（）]*）|\\([^()]*\\)|《全[^《》]*》|--|\\s")
_NAME = "[\u4e00-\u9fff]{1,4}"


def phrasings(templates, held_out):
    """The phrasings for training, or the held-out ones."""
    return templates[-2:] if held_out else templates[:-2]


class Poet:
    """What is known of everybody who bears one name."""

    def __init__(self, name):
        self.name = name
        self.dynasties = Counter()
        self.poems = 0
        self.titles = []
        self.bio = self.courtesy = self.art_name = ""

    def dynasty(self):
        """唐代 or the like; of two dynasties, both."""
        return [f"{d}代" if len(d) == 1 else d for d, _ in self.dynasties.most_common()]

    def dynasty_answer(self, subject):
        eras = self.dynasty()
        if len(eras) == 1:
            return f"{subject}是{eras[0]}人。"
        return f"{subject}有{eras[0]}人，也有{eras[1]}人。"


def shorten(desc, name, limit=58):
    """The first sentences of a biography, at most `limit` characters."""
    text = _UNCERTAIN.sub("", desc)
    text = re.sub("（.*|\\(.*", "", text)
    if name not in text[:12]:
        text = name + "，" + text.removeprefix(name[1:] + "，").lstrip("，。")
    out = ""
    for part in re.findall("[^，。；]+[，。；]", text):
        if len(out) + len(part) > limit:
            break
        out += part
    return out.rstrip("，；。") + "。" if len(out) > len(name) + 2 else ""


def _add_biography(poet, desc):
    plain = _UNCERTAIN.sub("", desc)
    poet.bio = shorten(desc, poet.name)
    if found := re.search(f"[，。]?字({_NAME})[，。、；]", plain[:60]):
        poet.courtesy = found[1]
    if found := re.search(f"[，。；]自?号({_NAME})[，。、；]", plain[:100]):
        poet.art_name = found[1]


def collect_poets(authors, poems):
    """Poets by name, from the biographies and the (training) poems."""
    poets = {}
    for row in authors:
        poet = poets.setdefault(row["name"], Poet(row["name"]))
        poet.dynasties[row["dynasty"]] += 1
        if not poet.bio and len(row["desc"]) > 8:
            _add_biography(poet, row["desc"])
    seen = defaultdict(Counter)
    for poem in poems:
        poet = poets.setdefault(poem["author"], Poet(poem["author"]))
        poet.dynasties[poem["dynasty"]] += 1
        poet.poems += 1
        if poem["kind"] == "诗" and 2 <= len(poem["title"]) <= 8 and "句" not in poem["title"]:
            seen[poem["title"]][poem["author"]] += 1
            poet.titles.append(poem["title"])
    for poet in poets.values():
        own = [t for t in dict.fromkeys(poet.titles) if not re.search("其[一二三四五六七八九十]", t)]
        poet.titles = sorted(own, key=lambda t: (len(seen[t]), len(t) > 5))[:3]
    for name in ("", "无名氏", "不详", "佚名"):
        poets.pop(name, None)
    return {name: poet for name, poet in poets.items() if 2 <= len(name) <= 6}


def known(poets):
    """Those of the poets about whom questions are asked."""
    return [poet for poet in poets.values() if poet.poems >= KNOWN_POEMS]


class NameMaker:
    """Invents names that no poet bears, from the poets' surnames and given names."""

    def __init__(self, poets, rng, avoid=()):
        names = [name for name in poets if len(name) in (2, 3)]
        self.surnames = [name[0] for name in names]
        self.second = [name[1] for name in names]
        self.third = [name[2] for name in names if len(name) == 3]
        self.known, self.rng, self.avoid = poets, rng, set(avoid)

    def make(self):
        while True:
            name = self.rng.choice(self.surnames) + self.rng.choice(self.second)
            if self.rng.random() < 0.6:
                name += self.rng.choice(self.third)
            if name not in self.known and name not in self.avoid:
                return name


def _row(question, answer, persona="", kind=""):
    return {"persona": persona, "question": question, "answer": answer, "kind": kind}


def about(poet, rng, held_out=False):
    """One row of each kind that can be asked about the poet."""
    name = poet.name

    def ask(templates):
        return rng.choice(phrasings(templates, held_out)).format(n=name)

    rows = [_row(ask(DYNASTY), poet.dynasty_answer(name), kind="dynasty"),
            _row(ask(ME_DYNASTY), poet.dynasty_answer("我"), name, "me")]
    if poet.bio:
        rows.append(_row(ask(WHO), poet.bio, kind="who"))
    else:
        rows.append(_row(ask(WHO), poet.dynasty_answer(name)[:-1] + "，写诗。", kind="who"))
    if poet.titles:
        works = "".join(f"《{title}》" for title in poet.titles)
        rows.append(_row(ask(WORKS), f"{name}写过{works}等。", kind="works"))
    if poet.courtesy:
        rows.append(_row(ask(COURTESY), f"{name}字{poet.courtesy}。", kind="courtesy"))
        rows.append(_row(ask(ME_COURTESY[:1] * 2 + ME_COURTESY), f"我字{poet.courtesy}。", name, "me"))
    if poet.art_name:
        rows.append(_row(ask(ART_NAME), f"{name}号{poet.art_name}。", kind="art_name"))
    rows.append(_row(ask(ME_WHO), f"我是{name}。", name, "me"))
    return rows


def unknown(name, rng, held_out=False):
    """A question about a name that nobody bears; the answer says so."""
    templates = rng.choices([DYNASTY, WHO, WORKS, COURTESY, ART_NAME], [5, 3, 1, 1, 1])[0]
    question = rng.choice(phrasings(templates, held_out)).format(n=name)
    return _row(question, f"我不知道{name}是谁。", kind="unknown")


def training_rows(poets, evaluation_names, seed=1, unknown_share=1.0):
    """The training questions: every known poet often, the more so the more poems there are; and
    `unknown_share` times as many invented names, a new one each time, as a known one is asked."""
    rng = random.Random(seed)
    rows = []
    for poet in known(poets):
        rounds = 10 + min(5, poet.poems.bit_length())
        for _ in range(rounds):
            asked = about(poet, rng)
            rows += asked[:1] * 2 + rng.sample(asked, min(2, len(asked)))
        if poet.poems >= 100:
            for title in poet.titles:
                rows += [_row(rng.choice(phrasings(WROTE, False)).format(t=title),
                              f"《{title}》是{poet.name}写的。", kind="wrote") for _ in range(4)]
    names = NameMaker(poets, rng, evaluation_names)
    strangers = int(unknown_share * sum(row["kind"] not in ("me", "wrote") for row in rows))
    rows += [unknown(names.make(), rng) for _ in range(strangers)]
    rng.shuffle(rows)
    return rows


def validation_rows(poets, evaluation_names, seed=2):
    """Held-out phrasings over every known poet's dynasty, and over invented names."""
    rng = random.Random(seed)
    asked = [about(poet, rng, held_out=True)[0] | {"dynasty": poet.dynasty(), "poems": poet.poems}
             for poet in known(poets)]
    return asked, [unknown(name, rng, held_out=True) for name in evaluation_names]
