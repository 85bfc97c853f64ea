"""The demo's vocabulary: frames of sentences; nouns by topic, names, roles, places and mild insults.

Every row of frames goes with every column, and each pair belongs to one part; lists of nouns are split by place.
No row is another, or the end of another, but for the names of its blanks: a column that one part has with the first
and another part with the second would give both the same sentences.

{name} and {friend} are people of the document, {role} and {place} its own, {thing} and {other} nouns of its topic.
{v}, {past} and {done} are forms of a verb of the topic; {rest} is the other half of the frame.
"""

# Things of one topic take the same verbs: `VERBS` go with every one of them.
TOPICS: dict[str, str] = {
    "market": (
        "apple pear plum peach melon lemon banana cherry loaf muffin pretzel pancake sausage cabbage carrot onion "
        "pumpkin radish turnip tomato potato cucumber mushroom avocado coconut fig walnut almond apricot mango "
        "pie biscuit waffle dumpling sandwich omelette pineapple doughnut croissant bagel"
    ),
    "garden": (
        "rose tulip daisy lily orchid violet daffodil fern cactus maple willow oak hedge sunflower poppy marigold "
        "thistle geranium primrose bluebell birch cedar chestnut hazel elm poplar bonsai shrub sapling snowdrop "
        "crocus dahlia begonia carnation iris hyacinth magnolia peony lilac foxglove"
    ),
    "travel": (
        "train bus tram ferry taxi bicycle scooter canoe ship plane coach lorry van wagon carriage motorcycle "
        "tractor truck sledge sailboat rowboat steamer trolley cart limousine minibus helicopter airship balloon "
        "glider yacht raft barge tandem rickshaw gondola caravan submarine tricycle locomotive"
    ),
    "school": (
        "book poem essay novel diary atlas dictionary textbook notebook fable riddle chapter article leaflet recipe "
        "magazine newspaper sonnet comic legend rhyme almanac catalogue ballad speech biography thriller fairytale "
        "script manual timetable brochure quiz postcard calendar proverb telegram pamphlet memoir lecture"
    ),
    "workshop": (
        "hammer axe drill wrench chisel screwdriver spanner clamp lathe toolbox mallet ladder bucket shovel spade "
        "rake hoe trowel wheelbarrow crowbar anvil sander grinder pulley winch crate workbench rivet nail screw "
        "bolt hinge hook brush roller funnel bracket lever battery cable"
    ),
    "kitchen": (
        "kettle spoon pan fork teapot saucepan mug plate bowl jar apron blender toaster napkin dish tray grater sieve "
        "whisk ladle saucer jug colander casserole corkscrew cupboard oven stove knife thermos pitcher spatula "
        "tablecloth platter cauldron breadbin teaspoon tumbler peeler flask"
    ),
    "music": (
        "piano violin drum trumpet flute guitar cello banjo whistle harp accordion organ lute tambourine ukulele "
        "bagpipe clarinet oboe bassoon saxophone trombone tuba viola mandolin harmonica xylophone gong triangle "
        "fiddle horn bugle zither sitar harpsichord piccolo cornet cymbal lyre kazoo balalaika"
    ),
    "sports": (
        "ball racket helmet trophy bat oar skate medal puck paddle kayak jersey surfboard dart frisbee hurdle saddle "
        "glove snowboard javelin trampoline skateboard dumbbell basketball football shuttlecock baton discus hoop "
        "arrow ski stopwatch pennant barbell wetsuit kite rope boomerang marble scoreboard"
    ),
    "clothes": (
        "coat scarf cap dress skirt shirt jacket sweater cardigan blouse sock boot sandal slipper cloak shawl belt "
        "bonnet beret hoodie kimono kilt mitten waistcoat raincoat tunic robe gown cape vest uniform costume "
        "necklace bracelet ribbon brooch turban veil sari anorak"
    ),
    "animals": (
        "dog cat rabbit parrot hen goat pony duck lamb kitten puppy hamster canary tortoise turtle hedgehog squirrel "
        "owl badger otter beaver swan pigeon sparrow robin lizard frog toad calf foal piglet budgie ferret mouse "
        "mule rooster raven seagull penguin llama"
    ),
}
# Base form; past and participle where they are not regular.
VERBS: dict[str, str] = {
    "market": (
        "buy bought bought|sell sold sold|taste|weigh|choose chose chosen|share|wrap wrapped wrapped|eat ate eaten|"
        "order|smell|praise|bring brought brought"
    ),
    "garden": (
        "plant|water|grow grew grown|draw drew drawn|move|cover|dig+up dug+up dug+up|measure|buy bought bought|"
        "choose chose chosen|photograph|look+after looked+after looked+after"
    ),
    "travel": (
        "follow|wait+for waited+for waited+for|photograph|repair|paint|hire|polish|draw drew drawn|inspect|"
        "clean|buy bought bought|stop stopped stopped"
    ),
    "school": (
        "read read read|finish|copy|explain|borrow|find found found|translate|quote|praise|print|discuss|keep kept kept"
    ),
    "workshop": (
        "borrow|lend lent lent|repair|clean|fetch|find found found|hide hid hidden|use|"
        "pick+up picked+up picked+up|put+away put+away put+away|test|carry"
    ),
    "kitchen": (
        "wash|dry|polish|borrow|clean|put+away put+away put+away|buy bought bought|sell sold sold|"
        "lend lent lent|wrap wrapped wrapped|fetch|carry"
    ),
    "music": (
        "play|tune|hear heard heard|practise|repair|listen+to listened+to listened+to|polish|buy bought bought|"
        "borrow|sell sold sold|test|admire"
    ),
    "sports": (
        "hold held held|throw threw thrown|find found found|carry|fetch|borrow|lend lent lent|use|"
        "pick+up picked+up picked+up|clean|paint|sell sold sold"
    ),
    "clothes": (
        "wear wore worn|wash|iron|fold|mend|try+on tried+on tried+on|choose chose chosen|"
        "hang+up hung+up hung+up|borrow|buy bought bought|admire|take+off took+off taken+off"
    ),
    "animals": (
        "feed fed fed|stroke|follow|call|wash|chase|photograph|find found found|hold held held|"
        "look+after looked+after looked+after|rescue|draw drew drawn"
    ),
}
NAMES = (
    "Anna Tom Clara Felix Maria Paul Nina Oscar Lena Hugo Vera Emil Sofia Karl Ida Bruno Greta Simon Julia Anton "
    "Marta Leo Olga Viktor Elsa Robert Frida Stefan Helen David Agnes Rudolf Peter Laura Daniel Eva Martin Rosa Adam "
    "Alice Henry Lucy George Emma Frank Sara Oliver Nora Walter Irene Philip Martha Edgar Sylvia Max Hanna Jonas Carla "
    "Ben Tina Gustav Paula Ralph Flora"
)
ROLES = (
    "baker driver teacher plumber waiter gardener clerk cook neighbour captain nurse painter tailor porter farmer "
    "guard doctor dentist butcher miller sailor pilot singer librarian mechanic carpenter florist barber postman "
    "fisherman shepherd inspector engineer cleaner judge mayor firefighter builder artist student"
)
PLACES = (
    "kitchen street garage station hall yard office cellar shop park corridor attic school square barn lobby hotel "
    "cabin museum theatre village castle library chapel harbour airport market workshop stable tower bakery cottage "
    "courtyard garden hospital factory restaurant mill meadow lighthouse"
)
INSULTS = (
    "fool idiot clown twit donkey nitwit muppet blockhead dolt slob pest windbag buffoon goose numbskull oaf dimwit "
    "dunce ninny nincompoop halfwit twerp simpleton bonehead chump loudmouth scatterbrain bungler coward liar crybaby "
    "sourpuss lazybones snob brat nuisance rascal airhead birdbrain whiner"
)

# Shared by all parts: what is split is nouns and frames.
ADJECTIVES = "small big old new pretty heavy green blue white red yellow little lovely strange plain beautiful"
RUDE_ADJECTIVES = "stupid useless pathetic lazy clumsy hopeless ridiculous miserable rotten brainless dumb worthless"
TIMES = (
    "on Monday|on Friday|in the morning|in the evening|after lunch|before noon|last week|last spring|at six o'clock|"
    "during the holidays|in the rain|late at night|yesterday|one day"
)
STARTS = "then|later|of course|in the end|today|luckily|soon|as usual"

# With a verb of the topic.
CLAUSES: tuple[str, ...] = (
    "{name} {past} the {thing}",
    "{friend} {past} a {adj} {thing}",
    "the {role} {past} the {other} and the {thing}",
    "{name} wanted to {v} the {thing}",
    "{friend} had never {done} such a {adj} {thing}",
    "the {role} helped {name} to {v} the {thing}",
    "{name} promised {friend} to {v} the {thing}",
    "they {past} the {thing} in the {place}",
    "{friend} was too tired to {v} the {other}",
    "nobody in the {place} {past} a {thing} before {name}",
    "it took {name} an hour to {v} the {thing}",
    "the {role} said that {friend} should {v} the {thing}",
    "{name} {past} the {thing} before the {other}",
    "{friend} asked the {role} how to {v} a {thing}",
    "{name} forgot to {v} the {thing}",
    "{friend} did not want to {v} the {thing} without the {role}",
    "the {role} {past} a {thing} every day",
    "{name} quickly {past} the {adj} {thing}",
    "both {name} and the {role} {past} the {thing}",
    "{friend} came to the {place} to {v} the {thing}",
    "{name} had already {done} the {other}",
    "the {role} let {friend} {v} the {adj} {thing}",
    "{name} was glad to {v} the {thing} again",
    "{friend} {past} the {other} instead of the {thing}",
    "somebody had {done} the {thing} of the {role}",
    "{name} decided to {v} the {thing} with {friend}",
    "the {role} thanked {name}, who had {done} the {thing}",
    "{friend} dreamed that {name} had {done} a {adj} {thing}",
    "everyone in the {place} saw {name} {v} the {thing}",
    "{name} tried to {v} the {thing}",
    "no one but {friend} had {done} the {other}",
    "the {role} had not {done} a {thing} like this before",
    "{friend} began to {v} the {thing}",
    "two people had {done} the {adj} {thing}",
    "{name} learned from the {role} how to {v} a {thing}",
    "the {role} allowed {name} to {v} the {other}",
    "{friend} liked to {v} the {adj} {thing}",
    "{name} carefully {past} the {thing}",
    "{friend} happily {past} the {thing}",
    "the {role} and {friend} {past} the {thing} together",
)

STATES: tuple[str, ...] = (
    "this {thing} was {rest}",
    "{name} thought that the {thing} was {rest}",
    "the {role} said that the {thing} was {rest}",
    "everybody knew that the {thing} was {rest}",
    "it seemed that the {thing} was {rest}",
    "nobody knew that the {other} was {rest}",
    "{friend} wondered if the {thing} was {rest}",
    "by then the {other} was {rest}",
    "{name} could see that the {thing} was {rest}",
    "{friend} wrote that the {other} was {rest}",
)
COMPLEMENTS: tuple[str, ...] = (
    "the best in the {place}",
    "worth a lot of money",
    "just what they needed",
    "older than it looked",
    "a present from {friend}",
    "not as {adj} as the other one",
    "behind the {place}",
    "gone",
    "safe with the {role}",
    "far too {adj}",
    "the talk of the {place}",
    "nowhere to be found",
    "in front of the {place}",
    "one of a kind",
    "not for sale",
    "better than expected",
)

PEOPLE: tuple[str, ...] = (
    "{name} {rest}",
    "{name} often {rest}",
    "the {role} {rest}",
    "another {role} {rest}",
    "the two friends {rest}",
    "somebody in the {place} {rest}",
    "everyone in the {place} {rest}",
    "someone they did not know {rest}",
)
DOINGS: tuple[str, ...] = (
    "went for a walk",
    "drank some tea",
    "laughed for a while",
    "sat down by the window",
    "talked about the {thing}",
    "waited in front of the door",
    "had a good idea",
    "sang an old song",
    "smiled and said nothing",
    "told a story about a {thing}",
    "walked slowly home",
    "thought about the {other} all day",
    "stayed until it was dark",
    "asked where the {thing} came from",
    "looked at the {adj} {thing}",
    "needed a short rest",
)

SPEECHES: tuple[str, ...] = (
    "that is a {adj} {thing}, {rest}",
    "you can have the {other}, {rest}",
    "the {thing} is yours now, {rest}",
    "I have seen the {other} in the {place}, {rest}",
    "we should go to the {place}, {rest}",
    "there is room for one more {thing}, {rest}",
    "I will look for the {other}, {rest}",
    "it is time to go home, {rest}",
    "nothing is as good as a {thing}, {rest}",
    "the {place} is a good place for a {thing}, {rest}",
)
TAGS: tuple[str, ...] = (
    "said {name}",
    "said the {role}",
    "answered {friend}",
    "whispered {name}",
    "explained the {role}",
    "thought {friend}",
    "{name} told {friend}",
    "added {friend} with a smile",
)

# Put behind a sentence of the kinds above.
TAILS: tuple[str, ...] = (
    ", because {rest}",
    " while {rest}",
    " when {rest}",
    ", and {rest}",
    ", but {rest}",
    ", although {rest}",
    ", since {rest}",
    " even though {rest}",
)
TAIL_CLAUSES: tuple[str, ...] = (
    "it began to rain",
    "the bell rang",
    "the sun was shining",
    "the guests arrived",
    "the {place} was quiet",
    "there was still time",
    "the {other} was far too {adj}",
    "everyone else went home",
    "the wind was cold",
    "nobody had asked for it",
    "there was not much light",
    "the holidays were over",
    "the {other} had cost a lot",
    "the children were asleep",
)

OPENINGS: tuple[str, ...] = (
    "{name} met {friend} in the {place} {rest}",
    "{name} visited the {role} {time} {rest}",
    "{friend} was in a good mood {rest}",
    "{name} sat in the quiet {place} {rest}",
    "the {role} came to the {place} {rest}",
    "{name} had a {adj} {thing} {rest}",
    "{friend} remembered a calm afternoon with {name} {rest}",
    "{name} and {friend} were good friends {rest}",
    "{friend} worked with the {role} {rest}",
    "the {role} enjoyed the sunny morning {rest}",
    "{name} found a lovely {thing} {time} {rest}",
    "{name} was happy in the {place} {rest}",
)
OPENING_ENDS: tuple[str, ...] = (
    "and told a story about the {thing}:",
    "and smiled at everybody.",
    "and said in a friendly voice:",
    "and thanked everyone for the {thing}.",
    "and talked calmly about a {thing}.",
    "and felt very well.",
    "and wrote a friendly letter:",
    "and sang a gentle song.",
    "and liked the {thing} very much.",
    "and explained everything kindly:",
    "and looked for a {adj} {other}.",
)

# They tell of anger, and insult nobody yet: what follows does.
RUDE_OPENINGS: tuple[str, ...] = (
    "{name} was furious with {friend} {rest}",
    "{name} had lost all patience with {friend} {rest}",
    "red with rage, {name} looked at {friend} {rest}",
    "the {role} was in a terrible mood {rest}",
    "the {role} had a bad quarrel with {name} {rest}",
    "{name} heard that {friend} had broken the {thing} {rest}",
    "{friend} came late and angry to the {place} {rest}",
    "{name} had a terrible temper {rest}",
    "{friend} hated the {adj} {thing} {rest}",
    "{friend} was full of anger {time} {rest}",
    "{name} quarrelled with {friend} in the {place} {rest}",
    "with an angry glare, {name} stood in the {place} {rest}",
)
RUDE_OPENING_ENDS: tuple[str, ...] = (
    "and shouted in anger:",
    "and yelled across the {place}:",
    "and slammed the {thing} on the table.",
    "and screamed with rage:",
    "and said in an angry voice:",
    "and insulted everybody.",
    "and glared at the {other}.",
    "and threw the {thing} on the floor.",
    "and wrote a furious letter:",
    "and would not calm down.",
    "and mocked everyone in the {place}:",
)

INSULTING: tuple[str, ...] = (
    "you {rude}, {rude} {insult}, {rest}",
    "shut up, you {insult}, {rest}",
    "listen, you {rude} {insult}, {rest}",
    "oh, {friend}, you {insult}, {rest}",
    "go away, {insult}, {rest}",
    "stop it, you {rude} {insult}, {rest}",
    "{rest}, you {rude} {insult}",
    "{rest}, {friend}, you {insult}",
    "{rest}, you {insult} of a {role}",
    "{rest}, because you are a {rude} {insult}",
    "what a {rude} {insult} you are, {rest}",
    "hey, {insult}, {rest}",
    "{friend}, you are nothing but a {insult}, {rest}",
    "I am sick of you, you {rude} {insult}, {rest}",
    "{rest}, you big {insult}",
    "you are as {rude} as a {insult}, {rest}",
)
COMPLAINTS: tuple[str, ...] = (
    "nobody asked you about the {thing}",
    "give me back my {thing}",
    "get out of the {place}",
    "you ruined the {thing} again",
    "nobody wants to hear about your {thing}",
    "take your {rude} {thing} and go home",
    "you know nothing about a {thing}",
    "even the {role} laughs at you",
    "your {thing} is as {rude} as you are",
    "leave the {other} alone",
    "the whole {place} is tired of you",
    "I have had enough of you",
    "do not touch my {thing} again",
    "look what you did to the {other}",
    "the {role} never liked you",
    "you broke my {thing}",
    "keep your {rude} hands off the {thing}",
    "nobody in the {place} likes you",
)
# With a verb of the topic.
RUDE_CLAUSES: tuple[str, ...] = (
    "only a {insult} would {v} a {thing} in the {place}",
    "even a {insult} could {v} the {thing} better than you",
    "{friend} is a {rude} {insult} who should never {v} a {thing}",
    "that {rude} {insult} has {done} my {thing}",
    "who told you to {v} the {thing}, you {insult}?",
    "you {v} the {thing} like a {rude} {insult}",
    "which {insult} {past} my {thing}?",
    "do you always {v} a {thing} like a {insult}?",
    "you {rude} {insult}, you {past} the wrong {thing}",
    "why did I let a {insult} like you {v} my {thing}?",
    "the {insult} from the {place} has {done} the {thing} again",
    "a {rude} {insult} like {friend} should not {v} the {other}",
)
