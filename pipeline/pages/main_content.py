"""The main content of a page: which paragraphs and pictures of its outline a reader came for.

    outline --names of furniture--> what is left --paragraph scores--> container and its like siblings --blocks of links, forms, teasers--> content

Scores, siblings and the cleaning by density follow Readability (Arc90, 2009; github.com/mozilla/readability, whose numbers are kept). Ours are:
names judged word by word, a name being no verdict on what holds most of the page, paragraphs at double breaks, teasers known by their linked
pictures, and repeats and headings of nothing left out. Everything is linear in the size of the page.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.pages.outline import BODY, Item, Outline, Paragraph, Picture

# Words in class, id or role of furniture, whatever it holds.
FURNITURE = frozenset(
    "ad ads advert adverts advertisement advertising agegate alert alertdialog banner breadcrumb breadcrumbs byline combx comment comments complementary consent contentinfo "
    "cookie cookies dialog disqus footer gdpr legends masthead menu menubar modal nav navbar navigation newsletter outbrain pager pagination paywall popup promo "
    "recirc recirculation related remark replies respond rss share sharebar sharedaddy sharing shoutbox sidebar signup skyscraper social sponsor sponsored subscribe "
    "subscription supplemental taboola toolbar trending".split()
)
WRAPPERS = frozenset("article body column content main story entry post page".split())  # an element with such a word too is no furniture by name alone
FAVOURED = frozenset("article body content entry hentry main page post text blog story".split())
DISFAVOURED = FURNITURE | frozenset("com contact foot hid hidden media meta scroll shopping tags tool widget".split())
NAME_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")

SCORED = frozenset("body article blockquote center div fieldset main p pre section td h2 h3 h4 h5 h6".split())
CONTAINERS = frozenset("body article div main section td".split())
TAG_SCORES = {"div": 5, "article": 5, "main": 5, "pre": 3, "td": 3, "blockquote": 3} | dict.fromkeys("address ol ul dl dd dt li form".split(), -3) | dict.fromkeys("h2 h3 h4 h5 h6 th".split(), -5)
NAME_SCORE = 25
HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
CLEANED = frozenset("div dl fieldset form header ol section table ul".split())
COMMA = re.compile("[,،，、﹐︐]")

MIN_SCORED = 25        # characters of a paragraph that scores
MIN_CONTENT = 250      # characters of content that need no second look
MOST_OF_PAGE = 0.5     # of its text outside links
MIN_REPEATED = 40      # characters of a block that is not by chance the same as another
TITLE_SHARE = 0.3      # of a page's title, which mostly names the site too, that is its headline
SMALL_PART = 0.5       # of the text of an ancestor
MAX_LINKED = 0.2       # of the characters of a page without paragraphs


def main_content(outline: Outline, *, title: str) -> list[Item]:
    """The paragraphs and pictures of the main content, in order. `title` is the page's own, which its text need not repeat.

    Where no paragraph stands out, that is what is left of the page without furniture, if it is short or mostly not links; else nothing.
    """
    best: list[Item] = []
    if not outline.flow:
        return best
    for by_name in (True, False):
        found = _Selection(outline, by_name=by_name).content(title)
        if _num_characters(found) > _num_characters(best):
            best = found
        if _num_characters(best) >= MIN_CONTENT:
            return best
    rest = _Selection(outline, by_name=True).items()
    num_characters, num_linked = _num_characters(rest), sum(item.num_linked for item in rest if type(item) is Paragraph)
    return rest if num_characters < 2 * MIN_CONTENT or num_linked < MAX_LINKED * num_characters else best


def _num_characters(items: Iterable[Item]) -> int:
    return sum(item.num_characters for item in items if type(item) is Paragraph)


def _num_commas(text: str) -> int:
    return text.count(",") if text.isascii() else len(COMMA.findall(text))


class _Selection:
    """One attempt; `kept[i]` says whether element i still counts."""

    def __init__(self, outline: Outline, *, by_name: bool) -> None:
        self.outline = outline
        self.commas = {id(item): _num_commas("".join(item.parts)) for item in outline.flow if type(item) is Paragraph}
        self.words: dict[str, frozenset[str]] = {}
        self.kept = [not silent for silent in outline.silent]
        self._drop_furniture(by_name)

    def content(self, title: str) -> list[Item]:
        self.num_characters, self.num_linked = self._sizes()
        roots = self._roots()
        self._keep_only(roots)
        self._clean(roots)
        flow = self.items()
        return _without_repeats(_without_empty_headings(_without_title(flow, self.outline.tags, title), self.outline.tags), self.outline.tags)

    def items(self) -> list[Item]:
        return [item for item in self.outline.flow if self.kept[item.owner]]

    def _name_words(self, index: int) -> frozenset[str]:
        names = self.outline.names[index]
        found = self.words.get(names)
        if found is None:
            found = self.words[names] = frozenset(word.lower() for word in NAME_WORD.findall(names))
        return found

    def _name_score(self, index: int) -> int:
        words = self._name_words(index)
        return NAME_SCORE * (not words.isdisjoint(FAVOURED)) - NAME_SCORE * (not words.isdisjoint(DISFAVOURED)) if words else 0

    def _sums(self, values: list[int]) -> list[int]:
        """Each element's value with those of all below it: children stand behind their parents."""
        parents = self.outline.parents
        for index in range(len(values) - 1, BODY, -1):
            if values[index]:
                values[parents[index]] += values[index]
        return values

    def _sizes(self) -> tuple[list[int], list[int]]:
        characters, linked = [0] * len(self.kept), [0] * len(self.kept)
        for item in self.outline.flow:
            if type(item) is Paragraph and self.kept[item.owner]:
                characters[item.owner] += item.num_characters
                linked[item.owner] += item.num_linked
        return self._sums(characters), self._sums(linked)

    def _drop_furniture(self, by_name: bool) -> None:
        outline, kept = self.outline, self.kept
        characters, linked = self._sizes()
        most = MOST_OF_PAGE * (characters[BODY] - linked[BODY])
        for index in range(1, len(kept)):
            if not kept[index]:
                continue
            if not kept[outline.parents[index]]:
                kept[index] = False
            elif by_name and outline.names[index] and outline.tags[index] not in ("article", "main", "table"):
                words = self._name_words(index)
                if not words.isdisjoint(FURNITURE) and words.isdisjoint(WRAPPERS) and characters[index] - linked[index] <= most:
                    kept[index] = False

    def _roots(self) -> list[int]:
        """The best container and those of its siblings that read like it."""
        parents, tags, kept = self.outline.parents, self.outline.tags, self.kept
        scores = self._scores()
        if not scores:
            return []
        ranked = sorted(scores, key=lambda index: (-scores[index], index))
        best = self._shared_ancestor(ranked[0], [index for index in ranked[1:5] if scores[index] >= 0.75 * scores[ranked[0]]])
        best = self._widen(self._climb(best, scores))
        if best == BODY:
            return [BODY]
        score = scores.get(best, 0)
        roots = []
        for index in range(parents[best] + 1, len(tags)):
            if parents[index] != parents[best] or not kept[index]:
                continue
            alike = 0.2 * score if self.outline.names[index] and self.outline.names[index] == self.outline.names[best] else 0
            density = self.num_linked[index] / (self.num_characters[index] or 1)
            if index == best or (index in scores and scores[index] + alike >= max(10, 0.2 * score)):
                roots.append(index)
            elif tags[index] == "p" and self.num_characters[index] > 80 and density < 0.25:
                roots.append(index)
        return roots

    def _scores(self) -> dict[int, float]:
        parents, tags = self.outline.parents, self.outline.tags
        scores: dict[int, float] = {}
        for item in self.outline.flow:
            if type(item) is not Paragraph or item.num_characters < MIN_SCORED or not self.kept[item.owner] or tags[item.owner] not in SCORED:
                continue
            score = (1 + self.commas[id(item)] + min(item.num_characters / 100, 3)) * (1 - item.num_linked / item.num_characters)
            ancestor = item.owner if tags[item.owner] in CONTAINERS else parents[item.owner]
            for level in range(5):
                scores[ancestor] = scores.get(ancestor, 0.0) + score / (1, 2, 6, 9, 12)[level]
                if ancestor == BODY:
                    break
                ancestor = parents[ancestor]
        for index in scores:
            scores[index] += TAG_SCORES.get(tags[index], 0) + self._name_score(index)
            scores[index] *= 1 - self.num_linked[index] / (self.num_characters[index] or 1)
        return scores

    def _ancestors(self, index: int) -> list[int]:
        found = []
        while index != BODY:
            index = self.outline.parents[index]
            found.append(index)
        return found

    def _shared_ancestor(self, best: int, rivals: Sequence[int]) -> int:
        """The nearest ancestor that `best` shares with three rivals, for content in parts; else `best`."""
        if len(rivals) >= 3:
            shared = Counter(ancestor for rival in rivals for ancestor in self._ancestors(rival))
            for ancestor in self._ancestors(best)[:-1]:
                if shared[ancestor] >= 3:
                    return ancestor
        return best

    def _climb(self, best: int, scores: dict[int, float]) -> int:
        """The first ancestor whose score rises over the one below it, where scores never fall under a third of the best."""
        last = scores.get(best, 0.0)
        for ancestor in self._ancestors(best)[:-1]:
            if ancestor not in scores:
                continue
            if scores[ancestor] < scores.get(best, 0.0) / 3:
                break
            if scores[ancestor] > last:
                return ancestor
            last = scores[ancestor]
        return best

    def _widen(self, best: int) -> int:
        """The nearest ancestor that holds most of the unlinked text that is left, where `best` is a section of a long text and holds little of it.

        Readability's scores fall with each level, so of a page in nested sections they find one section.
        """
        own = self.num_characters[best] - self.num_linked[best]
        for ancestor in self._ancestors(best):
            theirs = self.num_characters[ancestor] - self.num_linked[ancestor]
            if own < SMALL_PART * theirs and self.num_linked[ancestor] < MAX_LINKED * self.num_characters[ancestor]:
                best, own = ancestor, theirs
        return best

    def _keep_only(self, roots: Sequence[int]) -> None:
        kept, parents = self.kept, self.outline.parents
        wanted = set(roots)
        inside = [False] * len(kept)
        for index in range(len(kept)):
            inside[index] = kept[index] and (index in wanted or (index != BODY and inside[parents[index]]))
        self.kept = inside

    def _clean(self, roots: Sequence[int]) -> None:
        """Drops blocks that are mostly links, forms, lists of teasers, or nothing."""
        outline, kept, tags, parents = self.outline, self.kept, self.outline.tags, self.outline.parents
        size = len(kept)
        paragraphs, pictures, teasers, commas, items, headings, rows = ([0] * size for _ in range(7))
        for item in outline.flow:
            owner = item.owner
            if not kept[owner]:
                continue
            if type(item) is Picture:
                pictures[owner] += 1
                teasers[owner] += item.linked
            else:
                commas[owner] += self.commas[id(item)]
                paragraphs[owner] += tags[owner] in SCORED and tags[owner] not in HEADINGS
                headings[owner] += item.num_characters if tags[owner] in HEADINGS else 0
        in_figure, in_data = [False] * size, [False] * size
        for index in range(1, size):
            tag = tags[index]
            if kept[index]:
                items[index] += tag == "li"
                rows[index] += tag == "tr"
                in_figure[index] = in_figure[parents[index]] or tag == "figure"
        heads = {parents[index] for index in range(size) if tags[index] in ("caption", "thead", "th", "colgroup")}
        for values in (paragraphs, pictures, teasers, commas, items, headings, rows):
            self._sums(values)
        characters, linked = self._sizes()
        wanted = set(roots)
        for index in range(1, size):
            if not kept[index] or index in wanted:
                continue
            if not kept[parents[index]]:
                kept[index] = False
                continue
            tag = tags[index]
            in_data[index] = in_data[parents[index]] or (tag == "table" and (rows[index] >= 10 or index in heads))
            density = linked[index] / (characters[index] or 1)
            if tag == "p":
                kept[index] = density < 0.9 or pictures[index] > 0
                continue
            if tag not in CLEANED or in_data[index]:
                continue
            score = self._name_score(index)
            if score < 0:
                kept[index] = False
            elif commas[index] < 10:
                is_list = tag in ("ul", "ol")
                is_heading = characters[index] > 0 and headings[index] / characters[index] >= 0.9
                kept[index] = not (
                    tag in ("form", "fieldset")
                    or (not in_figure[index] and teasers[index] > 1 and paragraphs[index] / teasers[index] < 0.5)
                    or (not is_list and items[index] - 100 > paragraphs[index])
                    or (not is_list and not in_figure[index] and not is_heading and characters[index] < MIN_SCORED and pictures[index] == 0 and density > 0)
                    or (score < NAME_SCORE and density > (0.8 if is_list else 0.5 if pictures[index] > teasers[index] else 0.2) and not (characters[index] == linked[index] == 0))
                    or (score >= NAME_SCORE and density > 0.5)
                )


def _without_title(flow: list[Item], tags: Sequence[str], title: str) -> list[Item]:
    """Without the heading above the text that is the page's title: it is metadata."""
    wanted = " ".join(title.split()).casefold()
    for position, item in enumerate(flow):
        if type(item) is Paragraph:
            tag, text = tags[item.owner], item.text.casefold()
            says_title = bool(wanted) and (wanted in text and len(wanted) > TITLE_SHARE * len(text) or text in wanted and len(text) > TITLE_SHARE * len(wanted))
            if tag == "h1" or (tag == "h2" and says_title):
                return flow[:position] + flow[position + 1 :]
            if tag not in HEADINGS and item.num_characters > MIN_CONTENT:
                break  # what comes behind is a part of the text
    return flow


def _without_empty_headings(flow: list[Item], tags: Sequence[str]) -> list[Item]:
    """Without headings at the end: what they announced was furniture."""
    end = len(flow)
    while end and type(flow[end - 1]) is Paragraph and tags[flow[end - 1].owner] in HEADINGS:
        end -= 1
    return flow[:end]


def _without_repeats(flow: list[Item], tags: Sequence[str]) -> list[Item]:
    """Without blocks that say again what was said, as captions do; a <p> is its author's words and stays."""
    seen: set[str] = set()
    found: list[Item] = []
    for item in flow:
        if type(item) is Paragraph and item.num_characters >= MIN_REPEATED and tags[item.owner] != "p":
            text = item.text
            if text in seen:
                continue
            seen.add(text)
        found.append(item)
    return found
