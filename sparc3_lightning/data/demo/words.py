"""The demo's vocabulary: nouns by topic, names, roles, places and mild insults, each list split into parts by place."""

TOPICS: dict[str, str] = {
    "market": (
        "basket melon loaf pear cabbage pumpkin lemon carrot onion plum cheese walnut radish turnip peach honey "
        "apple sausage pretzel muffin celery garlic ham turkey banana almond coconut fig spinach mango butter "
        "cookie"
    ),
    "garden": (
        "rose spade hedge fence tulip ladder bucket shovel lawn rake apricot daisy orchid pond wheelbarrow fern "
        "hose lily violet parasol hammock trowel gnome swing sprinkler willow cactus maple scarecrow birdhouse "
        "daffodil mower"
    ),
    "travel": (
        "train ticket suitcase bus map tram ferry passport bridge tunnel platform taxi rucksack harbour bicycle "
        "coach tent compass ship plane lantern wagon airport hostel canoe scooter camera guidebook trolley anchor "
        "lighthouse carriage"
    ),
    "school": (
        "book pencil lesson desk chalk ruler notebook exam poem essay blackboard globe crayon atlas library quiz "
        "eraser folder backpack diary riddle alphabet scissors puzzle lecture microscope textbook sketch calendar "
        "medallion paintbrush report"
    ),
    "workshop": (
        "hammer nail axe drill bolt wrench shelf screw plank chisel hinge toolbox clamp vice lathe pliers crate "
        "brush rope tractor engine battery lamp spanner pulley anvil funnel clock lever cable mallet bracket"
    ),
    "kitchen": (
        "soup kettle oven spoon pan pancake teapot fork stew recipe omelette saucepan mug pudding grater dumpling "
        "plate bowl jar apron blender pie sandwich pepper toaster napkin cutlery dish tray waffle cupboard pickle"
    ),
    "music": (
        "piano violin song drum trumpet flute guitar melody choir cello waltz banjo whistle harp concert "
        "accordion organ tune gong opera lute tambourine chorus record drumstick metronome microphone lullaby "
        "bagpipe stage rhythm ukulele"
    ),
    "sports": (
        "ball goal racket helmet net trophy match bat oar skate referee javelin sledge medal puck paddle kayak "
        "whip jersey scoreboard stadium trampoline surfboard dart frisbee hurdle marathon saddle glove relay "
        "snowboard pennant"
    ),
}
NAMES = (
    "Anna Tom Clara Felix Maria Paul Nina Oscar Lena Hugo Vera Emil Sofia Karl Ida Bruno "
    "Greta Simon Julia Anton Marta Leo Olga Viktor Elsa Robert Frida Stefan Helen David Agnes Rudolf"
)
ROLES = (
    "baker driver teacher plumber waiter gardener clerk cook neighbour captain nurse painter tailor porter farmer guard"
)
PLACES = (
    "kitchen street garage station hall yard office cellar shop park corridor attic school square barn lobby "
    "hotel cabin museum theatre village castle field chapel"
)
INSULTS = "fool idiot clown twit donkey nitwit muppet blockhead dolt slob pest windbag buffoon goose numbskull oaf"

# Shared by all parts: what is split is nouns and frames.
ADJECTIVES = "small heavy green blue warm broken clean old new pretty simple long short bright cheap lazy rotten clumsy"
RUDE_ADJECTIVES = "stupid useless pathetic lazy clumsy hopeless ridiculous miserable rotten brainless dumb worthless"
TIMES = (
    "on Monday|on Friday|in the morning|in the evening|after lunch|before noon|last week|every spring|at six o'clock|"
    "during the holidays|in the rain|late at night"
)
STARTS = "then|later|perhaps|of course|in the end|today|now|again"
ENDS = "{time}|in the {place}|with {friend}|next to the {other}|once more|without the {role}|again"
