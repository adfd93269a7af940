"""The curated list of emoji: which ones look like the thing that their noun says.

An entry is a Unicode name (at most Unicode 13, which Python 3.10 knows), optionally followed by `=` and its nouns,
most specific first, parted by `/`; without `=` the name itself is the noun. The last noun names the *family*: all
members of a family are held out together, so that no seen glyph gives an unseen word away. Left out on purpose:
flags, clock faces, zodiac and other signs, arrows, letters, skin tones, hearts and stars (procedural shapes have
those), and glyphs that only differ in details.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

HELD_OUT_PERCENT = 12

_TABLE: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("animal",),
        "mouse, water buffalo=buffalo, cow, tiger, leopard, rabbit, cat, dragon, crocodile, whale, spouting "
        "whale=whale, snail, snake, horse, ram, goat, sheep, monkey, dog, poodle=poodle/dog, pig, boar, "
        "elephant, octopus, turtle, koala, bactrian camel=camel, dromedary camel=camel, dolphin, mouse "
        "face=mouse face/mouse, cow face=cow face/cow, tiger face=tiger face/tiger, rabbit face=rabbit "
        "face/rabbit, cat face=cat face/cat, dragon face=dragon face/dragon, horse face=horse face/horse, "
        "monkey face=monkey face/monkey, dog face=dog face/dog, pig face=pig face/pig, frog face=frog, "
        "hamster face=hamster, wolf face=wolf, bear face=bear, panda face=panda, chipmunk=squirrel, crab, "
        "lion face=lion, scorpion, unicorn face=unicorn, bat, shark, fox face=fox, deer, gorilla, lizard, "
        "rhinoceros=rhino, shrimp, squid, giraffe face=giraffe, zebra face=zebra, hedgehog, "
        "sauropod=dinosaur, t-rex=dinosaur, kangaroo, llama, hippopotamus=hippo, raccoon, lobster, badger, "
        "sloth, otter, orangutan, skunk, mammoth, beaver, bison, seal, spider",
    ),
    (
        ("bird", "animal"),
        "rooster, chicken, hatching chick=chick, baby chick=chick, front-facing baby chick=chick, bird, "
        "penguin, turkey, eagle, duck, owl, peacock, parrot, swan, flamingo, dodo, dove of peace=dove",
    ),
    (
        ("fish", "animal"),
        "fish, tropical fish=tropical fish/fish, blowfish=blowfish/fish",
    ),
    (
        ("insect", "animal"),
        "bug=caterpillar, ant, honeybee=bee, lady beetle=ladybug, butterfly, cricket=grasshopper, mosquito, "
        "fly, beetle",
    ),
    (
        ("fruit", "food"),
        "grapes, melon, watermelon, tangerine, lemon, banana, pineapple, red apple=apple, green apple=apple, "
        "pear, peach, cherries, strawberry, kiwifruit=kiwi, coconut, mango, blueberries, olive, avocado",
    ),
    (
        ("vegetable", "food"),
        "tomato, aubergine=eggplant, hot pepper=chili pepper/pepper, ear of maize=corn, carrot, cucumber, "
        "potato, broccoli, garlic, onion, bell pepper=bell pepper/pepper, leafy green=lettuce, roasted sweet "
        "potato=sweet potato/potato",
    ),
    (
        ("food",),
        "hamburger, slice of pizza=pizza, hot dog=hotdog, taco, burrito, meat on bone=meat, poultry "
        "leg=chicken leg, rice ball, steaming bowl=bowl of noodles, spaghetti, bread=loaf of bread/bread, "
        "french fries=fries, sushi, fried shrimp, popcorn, croissant, bacon, baguette bread=baguette, green "
        "salad=salad, egg, cooking=fried egg/egg, pretzel, cut of meat=steak, sandwich, canned food=can, "
        "bagel, cheese wedge=cheese, waffle, butter, peanuts, pancakes, dumpling, honey pot=honey jar, bento "
        "box, curry and rice=curry, oden=skewer, chestnut",
    ),
    (
        ("dessert", "food"),
        "soft ice cream=ice cream cone/ice cream, ice cream=bowl of ice cream/ice cream, shaved ice=shaved "
        "ice, doughnut=donut, cookie, chocolate bar=chocolate, candy, lollipop, custard=pudding, "
        "shortcake=slice of cake/cake, birthday cake=birthday cake/cake, cupcake, pie, dango",
    ),
    (
        ("drink",),
        "wine glass=glass of wine, cocktail glass=cocktail, tropical drink, beer mug=beer, hot "
        "beverage=coffee, teacup without handle=cup of tea, bottle with popping cork=bottle, baby bottle, "
        "glass of milk=milk, tumbler glass=whiskey, cup with straw=soda, beverage box=juice box, bubble tea",
    ),
    (
        ("flower", "plant"),
        "tulip, cherry blossom, rose, hibiscus, sunflower, blossom=daisy, bouquet",
    ),
    (
        ("tree", "plant"),
        "evergreen tree=pine tree, deciduous tree=leafy tree, palm tree, christmas tree",
    ),
    (
        ("plant",),
        "seedling=sprout, cactus, four leaf clover=clover, maple leaf=maple leaf/leaf, fallen leaf=brown "
        "leaf/leaf, leaf fluttering in wind=leaves, mushroom, potted plant, ear of rice=wheat",
    ),
    (
        ("vehicle",),
        "helicopter, steam locomotive=locomotive/train, high-speed train=train, bus, oncoming bus=bus, "
        "trolleybus, minibus, ambulance, fire engine=fire truck/truck, police car=police car/car, "
        "taxi=taxi/car, automobile=car, recreational vehicle=van, delivery truck=truck, articulated "
        "lorry=lorry/truck, tractor, bicycle, scooter=kick scooter/scooter, motor scooter=motor "
        "scooter/scooter, racing motorcycle=motorcycle, racing car=race car/car, pickup truck=pickup "
        "truck/truck, auto rickshaw=rickshaw, airplane=plane, small airplane=small plane/plane, rocket, "
        "flying saucer=ufo, canoe, sled, skateboard, roller skate",
    ),
    (
        ("boat", "vehicle"),
        "sailboat, speedboat, ship, ferry, motor boat",
    ),
    (
        ("building",),
        "house building=house, house with garden=house, derelict house building=old house/house, office "
        "building, hospital, hotel, school, factory, european castle=castle, japanese castle=pagoda, "
        "classical building=temple, church, mosque, tent, circus tent, statue of liberty=statue, tokyo "
        "tower=tower, stadium, ferris wheel, fountain, volcano, mount fuji=mountain, snow capped "
        "mountain=snowy mountain/mountain",
    ),
    (
        ("tool",),
        "wrench, hammer, axe, pick=pickaxe, hammer and pick=crossed hammers, carpentry saw=saw, screwdriver, "
        "nut and bolt=bolt, gear, ladder, bucket, broom, plunger, magnet, toolbox, black scissors=scissors, "
        "hocho=knife, electric torch=flashlight, left-pointing magnifying glass=magnifying glass, "
        "compression=clamp, dagger knife=dagger, crossed swords=swords, hook, toothbrush, razor, sewing "
        "needle=needle, safety pin, pushpin, paperclip, triangular ruler, straight ruler=ruler, pencil, lower "
        "left crayon=crayon, lower left paintbrush=paintbrush, spoon, fork and knife=knife and fork, "
        "chopsticks, syringe, test tube, microscope, telescope, thermometer, stethoscope, fire extinguisher, "
        "shield, bow and arrow, boomerang, key, old key=old key/key",
    ),
    (
        ("musical instrument",),
        "saxophone, guitar, trumpet, violin, musical keyboard=piano keys, drum with drumsticks=drum, "
        "accordion, banjo, long drum=tall drum/drum, postal horn=horn",
    ),
    (
        ("ball",),
        "soccer ball=football, basketball and hoop=basketball, american football, baseball, softball, "
        "volleyball, bowling=bowling ball, billiards=billiard ball, tennis racquet and ball=tennis ball, ball "
        "of yarn",
    ),
    (
        ("sports equipment",),
        "ice hockey stick and puck=hockey stick, table tennis paddle and ball=ping pong paddle, badminton "
        "racquet and shuttlecock=badminton racket, cricket bat and ball=cricket bat, boxing glove, flying "
        "disc=frisbee, curling stone, ski and ski boot=skis, fishing pole and fish=fishing rod, goal "
        "net=goal, trophy, sports medal=medal, direct hit=dartboard, diving mask, parachute, kite, yo-yo",
    ),
    (
        ("clothing",),
        "top hat=top hat/hat, womans hat=straw hat/hat, graduation cap, billed cap=cap, military "
        "helmet=helmet, crown, necktie=tie, t-shirt, jeans, dress, kimono, bikini, mans shoe=brown shoe/shoe, "
        "athletic shoe=sneaker/shoe, high-heeled shoe=high heel/shoe, womans boots=boot, hiking boot=hiking "
        "boot/boot, flat shoe=ballet flat/shoe, ballet shoes, womans sandal=sandal, thong sandal=flip flop, "
        "scarf, gloves, coat, socks, shorts, lab coat, safety vest=vest, eyeglasses=glasses, dark "
        "sunglasses=sunglasses, goggles",
    ),
    (
        ("bag",),
        "purse, handbag, pouch, school satchel=backpack, briefcase, luggage=suitcase, shopping bags, money bag",
    ),
    (
        ("device",),
        "camera, video camera=camcorder, movie camera, television, radio, mobile phone=phone, black "
        "telephone=telephone, personal computer=laptop, desktop computer, keyboard, printer, three button "
        "mouse=computer mouse, joystick, video game=game controller, battery, electric plug=plug, electric "
        "light bulb=light bulb, microphone, headphone=headphones, satellite antenna=antenna, watch, alarm "
        "clock=alarm clock/clock, mantelpiece clock=mantel clock/clock, stopwatch, optical disc=disc, floppy "
        "disk, videocassette=video tape, pager, fax machine=fax, speaker, film projector, abacus, compass, "
        "slot machine, robot face=robot",
    ),
    (
        ("furniture",),
        "chair, seat, couch and lamp=sofa, bed, door, window, mirror, bathtub, toilet, shower",
    ),
    (
        ("container",),
        "package=cardboard box, wastebasket=trash can, basket, amphora=vase, teapot, postbox=mailbox, lotion "
        "bottle, salt shaker, card file box=file box, oil drum=barrel, file cabinet",
    ),
    (
        ("stationery",),
        "closed book=red book/book, green book=green book/book, blue book=blue book/book, orange book=orange "
        "book/book, open book, books=stack of books, notebook=notebook/book, newspaper, scroll, clipboard, "
        "file folder=folder, envelope, calendar, label=tag, ticket, credit card, bookmark",
    ),
    (
        ("toy",),
        "teddy bear, balloon, game die=die, jigsaw puzzle piece=puzzle piece, nesting dolls=russian doll, "
        "carousel horse, pinata, firecracker, wrapped present=gift, ribbon=bow, crystal ball, magic wand, "
        "party popper",
    ),
    (
        ("face",),
        "grinning face=smiley, smiling face with sunglasses=smiley with sunglasses/smiley, crying face=sad "
        "face, pouting face=angry face, face with cowboy hat=cowboy, clown face=clown, "
        "jack-o-lantern=pumpkin, skull, extraterrestrial alien=alien, ghost, snowman without snow=snowman, "
        "japanese ogre=ogre mask, father christmas=santa claus, alien monster, nerd face",
    ),
    (
        ("object",),
        "gem stone=gem, ring=diamond ring, bomb, bell, umbrella, closed umbrella=closed umbrella/umbrella, "
        "lock, anchor, candle, barber pole, lipstick, nail polish, pill, bone, tooth, eye, brain, ear, foot, "
        "coin, brick, rock, wood=log, feather, spiral shell=shell, bar of soap=soap, sponge, roll of "
        "paper=toilet paper, spool of thread, receipt, fire=flame, snowflake, rainbow, cloud, full moon "
        "symbol=moon, crescent moon=crescent moon/moon, black sun with rays=sun, ringed planet=planet, earth "
        "globe americas=globe, droplet=water drop, banknote with dollar sign=dollar bill, chequered "
        "flag=racing flag, clapper board, artist palette=palette, film frames=film strip, smoking "
        "symbol=cigarette, coffin, world map=map, studio microphone, level slider, izakaya lantern=lantern, "
        "wind chime, octagonal sign=stop sign, horizontal traffic light=traffic light, construction "
        "sign=barrier, fuel pump=gas pump, shopping trolley=shopping cart, headstone=gravestone, diya "
        "lamp=oil lamp, ice cube, hourglass",
    ),
)

CATEGORIES = frozenset(category for categories, _ in _TABLE for category in categories)


@dataclass(frozen=True)
class GlyphEntry:
    """One emoji of the table.

    Attributes:
        character: The single code point, as a string.
        nouns: Nouns, most specific first, categories not included; the last one is the family.
        categories: Category nouns, narrowest first.
    """

    character: str
    nouns: tuple[str, ...]
    categories: tuple[str, ...]

    @property
    def family(self) -> str:
        """The noun by which the hold-out is decided."""
        return self.nouns[-1]

    @property
    def held_out(self) -> bool:
        """Whether the train split never shows this glyph."""
        return is_held_out(f"glyph:{self.family}")


def is_held_out(key: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Whether a name belongs to the held-out share: a hash of the name, the same in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < percent


@lru_cache(maxsize=1)
def glyph_entries() -> tuple[GlyphEntry, ...]:
    """All curated emoji, in the order of the table."""
    entries = []
    for categories, names in _TABLE:
        for item in names.split(","):
            name, _, nouns = item.strip().partition("=")
            character = unicodedata.lookup(name.upper())
            entries.append(GlyphEntry(character, tuple(nouns.split("/")) if nouns else (name,), categories))
    return tuple(entries)
