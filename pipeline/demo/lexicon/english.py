"""English words and facts for the multiple-choice questions and the word problems.

A table maps a thing to its one right answer within its subject. Words were chosen so that the
answer is not disputable: a word that fits two categories is left out.
"""

CATEGORIES: dict[str, list[str]] = {
    "fruit": "apple banana cherry grape lemon mango melon orange peach pear plum fig kiwi papaya "
    "apricot lime".split(),
    "vegetable": "carrot cabbage onion potato spinach celery broccoli pea turnip radish leek "
    "pumpkin lettuce beetroot garlic cucumber".split(),
    "bird": "sparrow eagle owl crow robin pigeon swan goose duck parrot penguin ostrich hawk heron "
    "gull wren".split(),
    "fish": "salmon tuna trout cod herring shark carp eel pike perch sardine mackerel haddock "
    "halibut".split(),
    "insect": "ant bee beetle butterfly mosquito moth wasp ladybird grasshopper dragonfly termite "
    "flea".split(),
    "mammal": "dog cat horse cow sheep goat pig lion tiger bear wolf fox deer rabbit mouse "
    "elephant".split(),
    "tool": "hammer saw drill wrench chisel screwdriver spade rake axe trowel shovel clamp".split(),
    "musical instrument": "piano violin flute drum guitar trumpet cello harp clarinet oboe "
    "trombone banjo tuba".split(),
    "piece of clothing": "shirt coat hat sock glove scarf skirt jacket dress sweater vest "
    "apron".split(),
    "piece of furniture": "chair table bed sofa desk shelf wardrobe bench stool cupboard dresser "
    "armchair".split(),
    "vehicle": "car bus truck train bicycle tram van ferry tractor scooter taxi canoe".split(),
    "job": "doctor teacher baker farmer nurse pilot lawyer carpenter plumber butcher tailor "
    "painter".split(),
    "part of the body": "arm leg hand foot knee elbow shoulder nose ear chin ankle wrist".split(),
    "kind of weather": "rain snow wind fog hail storm thunder frost drizzle sleet".split(),
    "building": "house church castle school hospital library museum tower barn hotel".split(),
    "metal": "iron copper gold silver tin zinc nickel aluminium titanium chromium".split(),
    "tree": "oak pine birch maple willow elm cedar poplar spruce beech".split(),
    "flower": "rose tulip daisy lily orchid poppy sunflower lavender daffodil marigold".split(),
    "drink": "water milk tea coffee juice lemonade cocoa wine beer cider".split(),
    "sport": "football tennis hockey rugby golf boxing rowing judo fencing basketball".split(),
    "colour": "red blue green yellow purple pink brown black white grey".split(),
    "shape": "circle square triangle cube sphere cone cylinder pyramid oval hexagon".split(),
}

# country: (capital, continent)
COUNTRIES: dict[str, tuple[str, str]] = {
    "France": ("Paris", "Europe"),
    "Germany": ("Berlin", "Europe"),
    "Italy": ("Rome", "Europe"),
    "Spain": ("Madrid", "Europe"),
    "Portugal": ("Lisbon", "Europe"),
    "Greece": ("Athens", "Europe"),
    "Austria": ("Vienna", "Europe"),
    "Poland": ("Warsaw", "Europe"),
    "Norway": ("Oslo", "Europe"),
    "Sweden": ("Stockholm", "Europe"),
    "Finland": ("Helsinki", "Europe"),
    "Denmark": ("Copenhagen", "Europe"),
    "Ireland": ("Dublin", "Europe"),
    "Hungary": ("Budapest", "Europe"),
    "Romania": ("Bucharest", "Europe"),
    "Bulgaria": ("Sofia", "Europe"),
    "Iceland": ("Reykjavik", "Europe"),
    "Ukraine": ("Kyiv", "Europe"),
    "China": ("Beijing", "Asia"),
    "Japan": ("Tokyo", "Asia"),
    "India": ("New Delhi", "Asia"),
    "Thailand": ("Bangkok", "Asia"),
    "Vietnam": ("Hanoi", "Asia"),
    "Iran": ("Tehran", "Asia"),
    "Iraq": ("Baghdad", "Asia"),
    "Nepal": ("Kathmandu", "Asia"),
    "Mongolia": ("Ulaanbaatar", "Asia"),
    "Bangladesh": ("Dhaka", "Asia"),
    "Pakistan": ("Islamabad", "Asia"),
    "Cambodia": ("Phnom Penh", "Asia"),
    "Malaysia": ("Kuala Lumpur", "Asia"),
    "Egypt": ("Cairo", "Africa"),
    "Kenya": ("Nairobi", "Africa"),
    "Ghana": ("Accra", "Africa"),
    "Morocco": ("Rabat", "Africa"),
    "Algeria": ("Algiers", "Africa"),
    "Ethiopia": ("Addis Ababa", "Africa"),
    "Senegal": ("Dakar", "Africa"),
    "Uganda": ("Kampala", "Africa"),
    "Angola": ("Luanda", "Africa"),
    "Zambia": ("Lusaka", "Africa"),
    "Sudan": ("Khartoum", "Africa"),
    "Tunisia": ("Tunis", "Africa"),
    "Canada": ("Ottawa", "North America"),
    "Mexico": ("Mexico City", "North America"),
    "Cuba": ("Havana", "North America"),
    "Jamaica": ("Kingston", "North America"),
    "Brazil": ("Brasilia", "South America"),
    "Peru": ("Lima", "South America"),
    "Chile": ("Santiago", "South America"),
    "Argentina": ("Buenos Aires", "South America"),
    "Colombia": ("Bogota", "South America"),
    "Ecuador": ("Quito", "South America"),
    "Uruguay": ("Montevideo", "South America"),
    "Paraguay": ("Asuncion", "South America"),
    "Venezuela": ("Caracas", "South America"),
}

ANTONYMS: list[tuple[str, str]] = [
    ("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("old", "young"),
    ("rich", "poor"), ("happy", "sad"), ("bright", "dim"), ("wet", "dry"), ("full", "empty"),
    ("loud", "quiet"), ("strong", "weak"), ("thick", "thin"), ("wide", "narrow"),
    ("deep", "shallow"), ("early", "late"), ("clean", "dirty"), ("brave", "cowardly"),
    ("open", "closed"), ("sharp", "blunt"), ("cheap", "expensive"), ("easy", "difficult"),
    ("heavy", "light"), ("smooth", "rough"), ("polite", "rude"), ("safe", "dangerous"),
    ("true", "false"), ("simple", "complex"), ("rare", "common"), ("ancient", "modern"),
    ("generous", "greedy"), ("guilty", "innocent"), ("major", "minor"), ("public", "private"),
    ("maximum", "minimum"), ("victory", "defeat"), ("arrive", "depart"), ("buy", "sell"),
    ("push", "pull"), ("begin", "end"), ("win", "lose"), ("laugh", "cry"), ("remember", "forget"),
    ("accept", "refuse"), ("expand", "shrink"), ("increase", "decrease"), ("attack", "defend"),
    ("above", "below"), ("inside", "outside"), ("north", "south"), ("east", "west"),
    ("always", "never"), ("before", "after"), ("import", "export"), ("entrance", "exit"),
]  # fmt: skip

ELEMENTS: dict[str, str] = {
    "hydrogen": "H", "helium": "He", "lithium": "Li", "boron": "B", "carbon": "C", "nitrogen": "N",
    "oxygen": "O", "fluorine": "F", "neon": "Ne", "sodium": "Na", "magnesium": "Mg",
    "aluminium": "Al", "silicon": "Si", "phosphorus": "P", "sulfur": "S", "chlorine": "Cl",
    "argon": "Ar", "potassium": "K", "calcium": "Ca", "iron": "Fe", "copper": "Cu", "zinc": "Zn",
    "silver": "Ag", "tin": "Sn", "iodine": "I", "gold": "Au", "mercury": "Hg", "lead": "Pb",
    "uranium": "U", "nickel": "Ni", "platinum": "Pt", "tungsten": "W", "cobalt": "Co",
    "bromine": "Br", "manganese": "Mn",
}  # fmt: skip

YOUNG: dict[str, str] = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "goat": "kid",
    "pig": "piglet", "bear": "cub", "deer": "fawn", "duck": "duckling", "goose": "gosling",
    "swan": "cygnet", "frog": "tadpole", "kangaroo": "joey", "hen": "chick", "eagle": "eaglet",
    "owl": "owlet", "hare": "leveret", "butterfly": "caterpillar",
}  # fmt: skip

PAST_TENSES: dict[str, str] = {
    "go": "went", "see": "saw", "eat": "ate", "take": "took", "give": "gave", "come": "came",
    "run": "ran", "write": "wrote", "speak": "spoke", "break": "broke", "drive": "drove",
    "ride": "rode", "rise": "rose", "sing": "sang", "swim": "swam", "drink": "drank",
    "begin": "began", "know": "knew", "grow": "grew", "throw": "threw", "fly": "flew",
    "draw": "drew", "wear": "wore", "tear": "tore", "think": "thought", "bring": "brought",
    "buy": "bought", "catch": "caught", "teach": "taught", "fight": "fought", "find": "found",
    "hold": "held", "tell": "told", "sell": "sold", "sit": "sat", "stand": "stood", "win": "won",
    "make": "made", "say": "said", "feel": "felt", "keep": "kept", "sleep": "slept",
    "leave": "left", "meet": "met", "lose": "lost", "build": "built", "send": "sent",
    "freeze": "froze", "steal": "stole", "shake": "shook",
}  # fmt: skip

# work: author
WORKS: dict[str, str] = {
    "Hamlet": "Shakespeare", "Macbeth": "Shakespeare", "Oliver Twist": "Dickens",
    "Bleak House": "Dickens", "Emma": "Austen", "Persuasion": "Austen", "Don Quixote": "Cervantes",
    "Faust": "Goethe", "The Odyssey": "Homer", "The Iliad": "Homer", "The Aeneid": "Virgil",
    "War and Peace": "Tolstoy", "Anna Karenina": "Tolstoy", "The Idiot": "Dostoevsky",
    "Moby-Dick": "Melville", "Walden": "Thoreau", "Dracula": "Stoker", "Frankenstein": "Shelley",
    "Ulysses": "Joyce", "Dubliners": "Joyce", "Candide": "Voltaire", "Tartuffe": "Moliere",
    "Jane Eyre": "Bronte", "The Trial": "Kafka", "Gulliver's Travels": "Swift",
    "Robinson Crusoe": "Defoe", "Paradise Lost": "Milton", "Middlemarch": "Eliot",
    "Kim": "Kipling", "The Prince": "Machiavelli", "The Republic": "Plato",
    "The Seagull": "Chekhov",
}  # fmt: skip

WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)

# first name: (subject pronoun, possessive)
NAMES: dict[str, tuple[str, str]] = {
    "Tom": ("He", "his"), "Anna": ("She", "her"), "Ben": ("He", "his"), "Lucy": ("She", "her"),
    "Jack": ("He", "his"), "Mary": ("She", "her"), "Sam": ("He", "his"), "Kate": ("She", "her"),
    "Paul": ("He", "his"), "Emma": ("She", "her"), "Leo": ("He", "his"), "Nina": ("She", "her"),
    "Max": ("He", "his"), "Rosa": ("She", "her"), "Omar": ("He", "his"), "Lily": ("She", "her"),
}  # fmt: skip

THINGS = (
    "apples pears plums books pens cards stamps coins shells marbles stickers cookies eggs balls "
    "beads flowers".split()
)
CONTAINERS = "bags boxes packs baskets jars".split()
GOODS = "pens books cups hats toys cakes lamps balls maps rings".split()
COLOURS = "red blue green yellow purple pink brown black white grey".split()
BELONGINGS = "hat ball cup bag coat pen bike kite car book".split()
PLACES = "kitchen garden school library park station museum office barn market".split()
# adjective: (comparative, superlative, opposite superlative)
ORDERS: dict[str, tuple[str, str, str]] = {
    "tall": ("taller", "tallest", "shortest"),
    "old": ("older", "oldest", "youngest"),
    "fast": ("faster", "fastest", "slowest"),
    "rich": ("richer", "richest", "poorest"),
}
