"""The demo's vocabulary: nouns by topic, names, roles, places and mild insults, each list split into parts by place."""

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
