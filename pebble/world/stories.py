"""Word problems of two to four steps with worked solutions.

A family is a function that draws one prompt with its answer. The wording of the answer belongs to
the family, never to chance, so the prompt determines it.
"""

from collections.abc import Callable
from random import Random

from pebble.world.people import someone, two


def running(rng: Random) -> tuple[str, str]:
    """Two speeds, one after the other."""
    who = someone(rng)
    verb, unit = rng.choice(
        (("run", "kilometers"), ("walk", "miles"), ("ride", "kilometers"), ("swim", "laps"))
    )
    fast, slow = rng.randint(2, 20), rng.randint(2, 20)
    first, rest = rng.randint(2, 6), rng.randint(2, 6)
    total = first + rest
    prompt = rng.choice(
        (
            f"{who.name} can {verb} {fast} {unit} per hour for {first} hours. After that, "
            f"{who.pronoun} can {verb} {slow} {unit} per hour. How many {unit} can {who.pronoun} "
            f"{verb} in {total} hours?",
            f"For {first} hours {who.name} can {verb} {fast} {unit} each hour, and then "
            f"{slow} {unit} each hour. How many {unit} can {who.pronoun} {verb} in {total} hours?",
        )
    )
    way, more = fast * first, slow * rest
    return prompt, (
        f"In {first} hours {who.pronoun} {verb}s {fast} * {first} = {way} {unit}. "
        f"The other {total} - {first} = {rest} hours give {slow} * {rest} = {more} {unit}. "
        f"In total that is {way} + {more} = {way + more}. The answer is {way + more}."
    )


def shopping(rng: Random) -> tuple[str, str]:
    """The cost of two kinds of goods."""
    who = someone(rng)
    goods = ("apples", "books", "pens", "cups", "plants", "shirts", "lamps", "cakes", "toys")
    this, that = rng.sample(goods, 2)
    many, few = rng.randint(2, 9), rng.randint(2, 9)
    price, cost = rng.randint(2, 15), rng.randint(2, 15)
    prompt = rng.choice(
        (
            f"{who.name} buys {many} {this} for {price} dollars each and {few} {that} for {cost} "
            f"dollars each. How much does {who.pronoun} pay?",
            f"At the shop {this} cost {price} dollars each and {that} cost {cost} dollars each. "
            f"{who.name} takes {many} {this} and {few} {that}. What is the total price?",
        )
    )
    left, right = many * price, few * cost
    return prompt, (
        f"The {this} cost {price} * {many} = {left} dollars. "
        f"The {that} cost {cost} * {few} = {right} dollars. "
        f"Together that is {left} + {right} = {left + right}. The answer is {left + right}."
    )


def sharing(rng: Random) -> tuple[str, str]:
    """Boxes that are opened and shared among friends."""
    who = someone(rng)
    thing = rng.choice(("marbles", "sweets", "cards", "nuts", "stickers", "coins"))
    boxes, size = rng.randint(2, 9), rng.randint(5, 20)
    every = boxes * size
    friends = rng.randint(2, 9)
    each = rng.randint(1, min(15, (every - 1) // friends))
    kept = every - friends * each
    prompt = rng.choice(
        (
            f"{who.name} has {boxes} boxes with {size} {thing} each. {who.start} keeps {kept} and "
            f"shares the rest among {friends} friends. How many {thing} does each friend get?",
            f"There are {boxes} boxes of {size} {thing}. {who.name} keeps {kept} {thing} and gives "
            f"the others to {friends} friends in equal parts. How many does each friend get?",
        )
    )
    rest = every - kept
    return prompt, (
        f"There are {boxes} * {size} = {every} {thing}. After keeping {kept} there are "
        f"{every} - {kept} = {rest} left. Each friend gets {rest} / {friends} = {each}. "
        f"The answer is {each}."
    )


def reading(rng: Random) -> tuple[str, str]:
    """What is left of a book or another long task."""
    who = someone(rng)
    verb, unit, whole = rng.choice(
        (("reads", "pages", "book"), ("copies", "lines", "poem"), ("learns", "words", "list"))
    )
    daily, days, more = rng.randint(3, 20), rng.randint(2, 7), rng.randint(2, 20)
    done = daily * days
    left = rng.randint(2, 199 - done - more)
    size = done + more + left
    prompt = rng.choice(
        (
            f"A {whole} has {size} {unit}. {who.name} {verb} {daily} {unit} a day for {days} days "
            f"and {more} {unit} on the next day. How many {unit} are left?",
            f"{who.name} {verb} {daily} {unit} a day for {days} days, then {more} more. The "
            f"{whole} has {size} {unit}. How many {unit} remain?",
        )
    )
    return prompt, (
        f"In {days} days {who.pronoun} {verb} {daily} * {days} = {done} {unit}. With the rest it "
        f"is {done} + {more} = {done + more} {unit}. So {size} - {done + more} = {left} {unit} "
        f"are left. The answer is {left}."
    )


def saving(rng: Random) -> tuple[str, str]:
    """Money that grows week by week and is partly spent."""
    who = someone(rng)
    start, weekly, weeks = rng.randint(5, 50), rng.randint(2, 15), rng.randint(2, 9)
    gain = weekly * weeks
    purse = start + gain
    spent = rng.randint(2, min(60, purse - 2))
    gift = rng.choice(("a ball", "a game", "a coat", "a bag", "a present", "a ticket"))
    prompt = rng.choice(
        (
            f"{who.name} has {start} dollars and saves {weekly} dollars a week. After {weeks} "
            f"weeks {who.pronoun} buys {gift} for {spent} dollars. How much money is left?",
            f"With {start} dollars at first, {who.name} saves {weekly} dollars each week for "
            f"{weeks} weeks and then pays {spent} dollars for {gift}. How many dollars remain?",
        )
    )
    return prompt, (
        f"In {weeks} weeks {who.pronoun} saves {weekly} * {weeks} = {gain} dollars. Then "
        f"{who.pronoun} has {start} + {gain} = {purse} dollars. After paying, {purse} - {spent} "
        f"= {purse - spent} dollars are left. The answer is {purse - spent}."
    )


def farm(rng: Random) -> tuple[str, str]:
    """Things made each day, partly used, and the rest sold."""
    who = someone(rng)
    source, thing = rng.choice(
        (("hens", "eggs"), ("trees", "pears"), ("ovens", "rolls"), ("cows", "bottles"))
    )
    many, each = rng.randint(2, 9), rng.randint(2, 9)
    every = many * each
    sold = rng.randint(2, min(20, every - 2))
    price = rng.randint(2, 9)
    used = every - sold
    prompt = rng.choice(
        (
            f"{who.name} has {many} {source}, and each gives {each} {thing} a day. {who.start} "
            f"uses {used} {thing} and sells the rest for {price} dollars each. How much money does "
            f"{who.pronoun} make a day?",
            f"On a farm {many} {source} give {each} {thing} each. {who.name} needs {used} {thing} "
            f"and sells all others at {price} dollars each. How many dollars does that bring?",
        )
    )
    return prompt, (
        f"There are {many} * {each} = {every} {thing}. For sale there are {every} - {used} = "
        f"{sold} {thing}. They bring {sold} * {price} = {sold * price} dollars. "
        f"The answer is {sold * price}."
    )


def bus(rng: Random) -> tuple[str, str]:
    """People who get on and off."""
    ride, place = rng.choice((("bus", "stop"), ("train", "station"), ("ferry", "port")))
    start = rng.randint(20, 60)
    off, on = rng.randint(2, 9), rng.randint(2, 20)
    leave = rng.randint(2, 9)
    prompt = rng.choice(
        (
            f"A {ride} carries {start} people. At the first {place} {off} get off and {on} get on. "
            f"At the next {place} {leave} get off. How many people are on the {ride} now?",
            f"There are {start} people on a {ride}. First {off} leave and {on} come in, and at the "
            f"next {place} {leave} leave. How many people does the {ride} carry then?",
        )
    )
    one, two_, three = start - off, start - off + on, start - off + on - leave
    return prompt, (
        f"First there are {start} - {off} = {one} people. Then there are {one} + {on} = {two_} "
        f"people. At last there are {two_} - {leave} = {three} people. The answer is {three}."
    )


def garden(rng: Random) -> tuple[str, str]:
    """Rows of plants, of which some are lost and some are added."""
    who = someone(rng)
    plant = rng.choice(("roses", "tulips", "carrots", "beans", "trees", "herbs"))
    rows, each = rng.randint(2, 9), rng.randint(3, 18)
    every = rows * each
    lost, added = rng.randint(2, min(30, every - 2)), rng.randint(2, 30)
    prompt = rng.choice(
        (
            f"{who.name} plants {rows} rows of {each} {plant}. Then {lost} of them die, and "
            f"{who.pronoun} plants {added} new ones. How many {plant} are there?",
            f"In a garden there are {rows} rows with {each} {plant} each. {who.name} removes "
            f"{lost} and adds {added}. How many {plant} does the garden have now?",
        )
    )
    left = every - lost
    return prompt, (
        f"At first there are {rows} * {each} = {every} {plant}. Then {every} - {lost} = {left} "
        f"are left. With the new ones there are {left} + {added} = {left + added}. "
        f"The answer is {left + added}."
    )


def ages(rng: Random) -> tuple[str, str]:
    """How old two people are together."""
    first, second = two(rng)
    age, factor, years = rng.randint(2, 20), rng.randint(2, 5), rng.randint(2, 12)
    older = age * factor
    prompt = rng.choice(
        (
            f"{first.name} is {age} years old. {second.name} is {factor} times as old. How old "
            f"are they together in {years} years?",
            f"{second.name} is {factor} times as old as {first.name}, who is {age}. What is the "
            f"sum of their ages in {years} years?",
        )
    )
    young, old = age + years, older + years
    return prompt, (
        f"{second.name} is {age} * {factor} = {older} years old. In {years} years {first.name} is "
        f"{age} + {years} = {young} and {second.name} is {older} + {years} = {old}. Together that "
        f"is {young} + {old} = {young + old}. The answer is {young + old}."
    )


def packing(rng: Random) -> tuple[str, str]:
    """Trays of things that are packed into bags."""
    who = someone(rng)
    thing = rng.choice(("cookies", "buns", "muffins", "candles", "cards", "soaps"))
    bags, size = rng.randint(2, 12), rng.randint(2, 9)
    packed = bags * size
    trays = rng.randint(2, 9)
    each = rng.randint(packed // trays + 2, packed // trays + 4)
    every = trays * each
    prompt = rng.choice(
        (
            f"{who.name} makes {trays} trays of {each} {thing}. {who.start} gives away "
            f"{every - packed} and packs the rest in bags of {size}. How many bags are there?",
            f"There are {trays} trays with {each} {thing} each. {every - packed} are broken, and "
            f"{who.name} puts the others in bags of {size}. How many bags does {who.pronoun} fill?",
        )
    )
    return prompt, (
        f"There are {trays} * {each} = {every} {thing}. To pack there are {every} - "
        f"{every - packed} = {packed} {thing}. They fill {packed} / {size} = {bags} bags. "
        f"The answer is {bags}."
    )


FAMILIES: tuple[Callable[[Random], tuple[str, str]], ...] = (
    running,
    shopping,
    sharing,
    reading,
    saving,
    farm,
    bus,
    garden,
    ages,
    packing,
)
