"""The words of the invented site in `sample_crawl.py`: titles, filler, and the sentences that name what a picture shows.

    topic, template, vocabulary --> sentence --> paragraph

A template holds slots such as `{place}`; each slot draws from the topic's vocabulary or from the shared one.
No filler template and no vocabulary holds a digit word, so that a digit word in the text is either a mention of a picture
or one of the counted noise sentences. All letters are in Latin-1, so that every page can be written in any of the charsets used.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Worded as in MENTIONS below; for zero-shot evaluation each class word replaces the braces.
ZERO_SHOT_TEMPLATES = (
    "a picture of the digit {}",
    "On the wall someone had painted a large {}.",
    "The next photograph shows the number {}.",
    "Here you can see the number {}.",
    "This is the picture with the {} in it.",
    "What you see here is the digit {}.",
)

NOISE_RATE = 0.03  # the share of filler sentences that name a digit which is not the next picture's


@dataclass(frozen=True)
class Topic:
    """The vocabulary of one part of the site; `place` and `person` carry their article, `things` is plural, `did` is past tense."""

    slug: str
    titles: tuple[str, ...]
    vocabulary: Mapping[str, tuple[str, ...]]


def _topic(slug: str, *, titles: str, place: str, things: str, person: str, did: str) -> Topic:
    slots = {"place": place, "things": things, "person": person, "did": did}
    return Topic(slug, tuple(titles.split("|")), {name: tuple(words.split("|")) for name, words in slots.items()})


TOPICS = (
    _topic(
        "harbour",
        titles="A slow walk round the harbour|Along the quay at low tide|The ferry pier in {season}|Boats, ropes and {weather}|Mornings by the breakwater",
        place="the fish quay|the lighthouse|the ferry pier|the boatyard|the sea wall|the slipway|the net loft|the breakwater",
        things="fishing boats|lobster pots|coils of rope|wet nets|gulls|buoys|sails|wooden crates",
        person="the harbour master|a retired pilot|the ferry captain|a boatbuilder|the net mender|an old sailor",
        did="tied up the dinghy|scraped the hull|mended a torn net|waited for the tide|coiled the mooring lines|unloaded the catch",
    ),
    _topic(
        "market",
        titles="Saturday at the market|What the stalls had in {season}|Cheese, bread and {weather}|Under the awnings|A basket from the square",
        place="the covered market|the flower stall|the cheese counter|the square|the bakery van|the spice stall|the fountain|the egg lady's table",
        things="ripe pears|bunches of parsley|clay jars|baskets of plums|loaves|jars of honey|paper bags|cabbages",
        person="the baker|a cheese seller|the flower woman|the butcher's boy|a juggler|the lady with the scales",
        did="weighed a bag of cherries|called out the prices|wrapped the bread|sharpened a knife|swept under the table|tasted the olives",
    ),
    _topic(
        "garden",
        titles="Notes from the walled garden|What came up in {season}|Beds, borders and {weather}|The greenhouse diary|An hour among the beans",
        place="the greenhouse|the compost heap|the herb bed|the orchard wall|the pond|the potting shed|the rose arch|the vegetable plot",
        things="tomato plants|runner beans|seed trays|tulips|bumblebees|watering cans|fallen apples|young lettuces",
        person="the head gardener|a neighbour|the beekeeper|my aunt|the apprentice|a volunteer",
        did="pruned the roses|turned the compost|watered the seedlings|raked the gravel|tied up the sweet peas|picked a bowl of currants",
    ),
    _topic(
        "rain",
        titles="A rainy day in town|Umbrellas and puddles|Waiting for {weather} to pass|What to do when it pours|Wet streets in {season}",
        place="the arcade|the tram shelter|the museum steps|the corner café|the bookshop|the canal bridge|the cinema doorway|the old post office",
        things="umbrellas|raincoats|puddles|dripping gutters|rubber boots|fogged windows|wet leaves|newspapers",
        person="a cyclist|the postman|a woman with a dog|the café owner|a schoolboy|the window cleaner",
        did="shook out an umbrella|ran for the tram|dried the chairs|hung a coat by the stove|stepped over the puddles|read by the window",
    ),
    _topic(
        "workshop",
        titles="In the carpenter's workshop|Sawdust and {weather}|Tools that last|A chair takes shape|Visiting the makers in {season}",
        place="the workbench|the timber rack|the forge|the tool wall|the yard|the kiln|the varnish room|the lathe",
        things="chisels|oak boards|curls of wood|brass hinges|clamps|drawers full of screws|glass jars|unfinished chairs",
        person="the carpenter|a young potter|the blacksmith|the clockmaker|her assistant|a visiting student",
        did="planed a long board|sharpened the chisels|glued the joints|oiled the hinges|sanded the table top|measured the frame again",
    ),
    _topic(
        "trains",
        titles="The branch line in {season}|A window seat and {weather}|Small stations|The night train north|Platform notes",
        place="the signal box|the station café|the engine shed|the footbridge|the far platform|the ticket hall|the level crossing|the dining car",
        things="suitcases|timetables|goods wagons|mail sacks|signal lamps|window seats|paper tickets|bicycles",
        person="the guard|a ticket clerk|the engine driver|a commuter|the station cat's owner|an old conductor",
        did="blew the whistle|checked the tickets|polished the lamps|leaned out of the window|missed the connection|poured tea from a flask",
    ),
    _topic(
        "hills",
        titles="Over the hill and back|A ridge walk in {season}|Sheep, stiles and {weather}|The path above the village|Boots on the moor",
        place="the summit cairn|the old sheepfold|the stile|the mountain hut|the beech wood|the stream|the drystone wall|the chapel",
        things="sheep|walking sticks|thistles|larks|stepping stones|sandwiches|maps|pine cones",
        person="a shepherd|the hut keeper|a pair of hikers|our guide|a birdwatcher|the farmer's daughter",
        did="filled the water bottles|crossed the stream|opened the gate|looked for the path|rested on a rock|watched a buzzard circle",
    ),
    _topic(
        "kitchen",
        titles="Soup for {weather}|A kitchen in {season}|Bread day|What the pantry held|Supper at the long table",
        place="the stove|the pantry|the long table|the bread oven|the kitchen window|the cellar|the spice shelf|the sink",
        things="copper pans|onions|wooden spoons|lemons|mushrooms|sprigs of thyme|plates|jars of pickles",
        person="the cook|my grandmother|a hungry guest|the dishwasher|our host|the girl from upstairs",
        did="kneaded the dough|stirred the soup|chopped the leeks|tasted the sauce|set the table|peeled the potatoes",
    ),
    _topic(
        "museum",
        titles="An afternoon in the little museum|Rooms full of {season} light|Cases, labels and {weather}|The keeper of the clocks|Old things well kept",
        place="the clock room|the staircase|the map gallery|the cloakroom|the glass case|the reading room|the courtyard|the print cabinet",
        things="coins|old maps|ship models|stuffed birds|portraits|brass telescopes|letters|musical boxes",
        person="the curator|a night watchman|a school class|the restorer|an art student|the woman at the desk",
        did="dusted the frames|wound the clocks|sketched a vase|read every label|dimmed the lamps|unrolled a map",
    ),
    _topic(
        "river",
        titles="Downstream by canoe|The towpath in {season}|Locks, ducks and {weather}|A day on the barge|Where the river bends",
        place="the lock|the mill|the weir|the boathouse|the stone bridge|the reed bed|the towpath|the island",
        things="ducks|canoes|willows|dragonflies|barges|fishing rods|water lilies|swans",
        person="the lock keeper|an angler|the miller|a rowing crew|the barge family|a swimmer",
        did="opened the sluice|paddled upstream|landed a trout|moored under a willow|fed the ducks|painted the cabin door",
    ),
)

SHARED_VOCABULARY = {
    name: tuple(words.split("|"))
    for name, words in {
        "name": "Mara|Ilse|Tomas|Edda|Jonas|Priya|Kofi|Zoë|René|Anton|Lucía|Noor|Björn|Agnès|Walter|Hana",
        "time": "early in the morning|just before noon|late in the afternoon|after lunch|at dusk|before breakfast|towards evening|in the middle of the day",
        "season": "spring|summer|autumn|winter|March|October|late June|early November",
        "weather": "a thin rain|bright sunshine|a cold wind|low cloud|the first frost|a warm breeze|thick fog|a passing shower",
        "adjective": "quiet|crowded|narrow|sunny|dusty|cheerful|half empty|freshly swept|old-fashioned|surprisingly warm|familiar|slippery",
        "mood": "in no hurry|in good spirits|a little tired|glad to be there|lost in thought|ready for a rest|curious|perfectly content",
        "food": "a slice of plum cake|warm bread|a bowl of soup|toast and jam|crème caramel|a paper bag of nuts|an apple|fried potatoes",
        "drink": "strong coffee|peppermint tea|hot chocolate|cold lemonade|a glass of cider|milk|ginger beer",
        "sound": "a distant bell|the creak of a door|somebody whistling|the hum of voices|an accordion|footsteps on gravel|a barking dog|a radio",
        "smell": "fresh bread|wet stone|tar and salt|cut grass|wood smoke|roasted coffee|soap|warm dust",
        "material": "stone|oak|brick|copper|tin|slate|canvas|glass",
        "relative": "cousin|nephew|neighbour|brother|teacher|landlady|daughter|grandfather",
        "distance": "a short walk|a few minutes|a stone's throw|half an hour|a couple of streets|not far",
        "object": "a notebook|a folding chair|a torch|an old camera|a scarf|a pocket knife|a sketchbook|a thermos flask",
        "size": "large|big|huge|bold|tall",
    }.items()
}

FILLER = (
    "{time} {place} was {adjective}, and {person} {did}.",
    "{name} and I met near {place}, {distance} from the old town.",
    "There was {weather} that day, so we stayed close to {place}.",
    "{person} {did} while we looked at the {things}.",
    "You could smell {smell} long before you reached {place}.",
    "We heard {sound} from somewhere behind {place}.",
    "{name} bought {food} and shared it with {person}.",
    "Nobody seemed to mind {weather}.",
    "The {things} were stacked against a wall of {material}.",
    "In {season} the light around {place} is softer than people expect.",
    "{person} told us how things used to be before {place} was rebuilt.",
    "I had forgotten {object}, but {name} had brought a spare.",
    "It is {distance} from the bus stop, and the road is {adjective}.",
    "After {drink} and {food} everybody was {mood}.",
    "{name} {did}, and then we moved on.",
    "Most visitors walk straight past {place} without a second look.",
    "The best time to come is {time}, when {place} is {adjective}.",
    "A {relative} of {name} has worked here since {season}.",
    "We counted the {things} for a while and then gave up.",
    "{person} said that {weather} is good for the {things}.",
    "Behind {place} there is a yard full of {things}.",
    "For lunch we had {food}, and {drink} to go with it.",
    "The roof is made of {material} and leaks a little when there is {weather}.",
    "{name} sat down by {place} and opened {object}.",
    "Children chased each other between the {things}.",
    "By then {person} had packed up and gone home.",
    "It was {adjective} inside, with the smell of {smell} and {sound} in the background.",
    "We promised {name} to come back in {season}.",
    "Somebody had left {object} beside the {things}.",
    "The path from {place} was {adjective} after {weather}.",
    "{person} was {mood} and let us look around.",
    "If you ask politely, {person} will show you the {things}.",
    "I like {place} most of all {time}.",
    "My {relative} once {did} here and never forgot it.",
    "On the way back {name} stopped to admire the {things}.",
    "The door of {place} is made of {material} and never quite closes.",
    "We were {mood}, although there was {weather} until the evening.",
    "{person} offered us {drink}, which we were happy to accept.",
    "Everything around {place} had been tidied up since {season}.",
    "It took us a while to find {place} on the map.",
    "There are fewer {things} than there used to be, says {name}.",
    "{time} the whole place goes quiet, apart from {sound}.",
    "{name} wrote a few lines and I looked for {person}.",
    "A cat slept on the warm {material}, among the {things}.",
    "The {things} had to be moved before {person} could start.",
    "Later {name} {did}, with some help from {person}.",
    "What I remember best is {sound} and the smell of {smell}.",
    "We took the long way round, past {place} and along the {adjective} lane.",
    "It is hard to describe {place} to anybody who has never been there.",
    "{person} keeps {object} in a box made of {material}.",
    "The forecast had promised {weather}, and for a change it was right.",
    "Even in {season} there are {things} to be found here.",
    "We shared {food} under the roof and waited.",
    "{name}'s {relative} laughed and {did}.",
    "Please remember that {place} is closed in {season}.",
    "A few steps further on, {person} {did} as if we were not there.",
    "I drew the {things} in pencil, badly, and felt {mood}.",
    "Without {name} we would never have found {place}.",
    "The talk was mostly about {things}, {weather} and {food}.",
    "{person} has looked after the {things} for many years.",
    "Our {relative} would have liked it: {food}, {drink} and {sound}.",
    "At the end of the day {place} was {adjective} again.",
)

NOISE = (
    "We missed tram number {digit} and walked past {place} instead.",
    "{name} lives in house number {digit}, {distance} from {place}.",
    "The sign by {place} still says number {digit}, but nobody knows why.",
    "Ask for table number {digit} and say that {person} sent you.",
    "According to {name}, page {digit} of the guide is about the {things}.",
    "The clock near {place} had stopped at {digit}.",
)

MENTIONS = {
    "with colour": (
        "On the wall someone had painted {a_size_colour} {digit}.",
        "The next photograph shows the number {digit} in {colour}.",
        "Here you can see {a_colour} {digit}.",
        "{name} pointed at {a_colour} {digit} in front of us.",
        "Then we noticed the {colour} {digit}.",
        "Look closely and you will find {a_colour} {digit}.",
        "This is the picture with the {colour} {digit} in it.",
        "In the middle of it all stood {a_size_colour} {digit}, painted by hand.",
        "What you see here is the digit {digit}, in {colour}.",
        "Below is a photograph of {a_size_colour} {digit}.",
        "Somebody had drawn the figure {digit} in {colour} paint.",
        "I took this picture because of the {colour} {digit}.",
        "The number we found there was {digit}, and it was {colour}.",
        "{person} wrote the number {digit} in {colour} across the scene.",
    ),
    "without colour": (
        "On the wall someone had painted a {size} {digit}.",
        "The next photograph shows the number {digit}.",
        "Here you can see the number {digit}.",
        "{name} pointed at the {digit} in front of us.",
        "Then we noticed the {size} {digit}.",
        "Look closely and you will find the number {digit}.",
        "This is the picture with the {digit} in it.",
        "What you see here is the digit {digit}.",
        "Below is a picture of the digit {digit}.",
        "Somebody had drawn the figure {digit} by hand.",
        "I took this picture because of the {digit}.",
        "{person} had left us the number {digit} to find.",
    ),
}

CAPTIONS = {
    "with colour": (
        "The digit {digit} in {colour}.",
        "{a_size_colour} {digit}, as seen by {name}.",
        "A picture of the number {digit}, painted in {colour}.",
        "That {colour} {digit} is hard to miss.",
        "{a_colour} {digit}. Photograph: {name}.",
        "Above: the number {digit} in {colour}.",
    ),
    "without colour": (
        "The digit {digit}.",
        "A {size} {digit}, as seen by {name}.",
        "A picture of the number {digit}.",
        "Above: the number {digit}.",
        "That was the {digit} we had been looking for.",
    ),
}

PLAIN_CAPTIONS = ("Photograph: {name}.", "Picture taken {time} by {name}.", "From the collection of {person}.", "Seen in {season}.")
ALTERNATIVE_TEXTS = ("", "", "photo", "picture from our visit", "image", "a view in {season}", "photo by {name}")
HEADINGS = ("Around {place}", "A word about {things}", "With {name}", "In {season}", "{things} and {weather}", "Food and drink")

COLOUR_RATE = 0.7  # the share of mentions that name the colour as well


def write_title(rng: np.random.Generator, topic: Topic) -> str:
    """A page title on the topic, without digit words."""
    return _fill(rng, _draw(rng, topic.titles), topic, {})


def write_filler(rng: np.random.Generator, topic: Topic, *, num_sentences: int, not_digit: int | None = None) -> str:
    """A paragraph of `num_sentences` distinct filler sentences.

    With probability NOISE_RATE each, a sentence names a digit, never `not_digit`: what it says of the next picture is wrong.
    """
    sentences = []
    for index in rng.permutation(len(FILLER))[:num_sentences]:
        if rng.random() < NOISE_RATE:
            digits = [word for digit, word in enumerate(DIGIT_WORDS) if digit != not_digit]
            sentences.append(_fill(rng, _draw(rng, NOISE), topic, {"digit": _draw(rng, digits)}))
        else:
            sentences.append(_fill(rng, FILLER[index], topic, {}))
    return " ".join(sentences)


def write_mention(rng: np.random.Generator, topic: Topic, *, digit: int, colour: str, as_caption: bool = False) -> str:
    """A sentence that names the digit by its word and, with probability COLOUR_RATE, its colour."""
    kind = "with colour" if rng.random() < COLOUR_RATE else "without colour"
    size = _draw(rng, SHARED_VOCABULARY["size"])
    article = "an" if colour[0] in "aeiou" else "a"
    slots = {
        "digit": DIGIT_WORDS[digit],
        "colour": colour,
        "size": size,
        "a_colour": f"{article} {colour}",
        "a_size_colour": f"a {size} {colour}",
    }
    return _fill(rng, _draw(rng, (CAPTIONS if as_caption else MENTIONS)[kind]), topic, slots)


def write_line(rng: np.random.Generator, topic: Topic, templates: tuple[str, ...]) -> str:
    """One of `templates`, such as HEADINGS, with its slots filled; an empty template stays empty."""
    return _fill(rng, _draw(rng, templates), topic, {})


def _draw(rng: np.random.Generator, choices: tuple[str, ...] | list[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _fill(rng: np.random.Generator, template: str, topic: Topic, slots: Mapping[str, str]) -> str:
    def word(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in slots:
            return slots[name]
        return _draw(rng, topic.vocabulary[name] if name in topic.vocabulary else SHARED_VOCABULARY[name])

    text = re.sub(r"\{(\w+)\}", word, template)
    return text[:1].upper() + text[1:]
