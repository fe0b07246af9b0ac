"""Every threshold of the doctor, with its reason. Calibrated on healthy models: see docs/doctor.md.

They are ratios wherever a ratio can be had, so that they hold for any width, depth, vocabulary and seed.
"""

# --- leak (X1) ---
# Changes below this share of the logits' spread are rounding: float32 has 1e-7, a deep model multiplies it by tens, and
# a leak that teaches anything moves logits by percents. Held with the model's own noise beside it (exact.Yardstick).
SAME_LOGITS = 1e-4
# Measured noise is a maximum over few numbers; the maximum over all that are compared may be some times larger.
ABOVE_NOISE = 10.0
# Noise between batch shapes is believed up to this many roundings of the model's own dtype.
BELIEVED_ROUNDING = 32.0
# A first layer that knows positions changes when its past is put in another order. Without positions only the order
# of a sum differs: below 1e-6 of the spread. An untrained rotary layer, the weakest known, moves by 1e-4 and more.
ORDER_MATTERS = 1e-5

# --- size (X2) ---
# Logits that spread by s around a guess cost about s^2 / 2 nats; stock initialisations start 0.0 to 0.9 above ln V.
LOSS_ABOVE_LN_V_AT_START = 1.5
# Healthy pretrained ReLU models have layers of which 70 % of the units never speak (Voita et al., 2023,
# arXiv:2309.04827); a layer with fewer than one in four left is past that. Below a tenth nobody would look twice.
DEAD_UNITS_FAIL = 0.75
DEAD_UNITS_NOTE = 0.1
# Of a layer's largest input: what is below it is zero to float32.
SILENT = 1e-6
# AdamW steps on a copy after which a part that only starts at zero has come alive: three matrices in a row may.
STEPS_TO_COME_ALIVE = 4
COME_ALIVE_RATE = 1e-3
# Units with the same weights that also get the same gradient stay one unit for ever; a random matrix has none.
SYMMETRIC_UNITS_FAIL = 0.1
# Two gradients are the same below this share of their length: the order of a sum in float32.
SAME_GRADIENT = 1e-4

# --- gradient (X3) ---

# --- memorise (X4) ---

# --- distribution (X5) ---
# Of ln V: what the context must be worth at the best temperature, beside this many standard errors. Untrained models
# of eleven architectures stay below 0.001 and below 3 errors; ones that learnt for 40 steps are above 0.08.
INFORMED_SHARE = 0.01
INFORMED_ERRORS = 4.0
# The best temperature of healthy models lies between 0.5 and 2, on strange text up to 4.
LOGITS_TOO_LARGE = 10.0
LOGITS_TOO_SMALL = 0.1
# A share of the positions that no token of real text has, in data that is not nearly one token throughout.
SATURATED_SHARE = 0.9
SATURATED_MASS = 0.9
SATURATED_ABOVE_ACCURACY = 0.5
# Of ln V; above it a prediction is even over the vocabulary, and a unigram guess lies far below.
FLAT_ENTROPY = 0.95
# Of the way from ln V to the unigram guess.
UNIGRAM_SHARE = 0.5
# Steps below which every model knows token frequencies only: masked ones stay there for some hundred.
YOUNG_STEPS = 1000
# Positions below which nothing can be said.
FEWEST_POSITIONS = 50
# Expected calibration error; trained language models on text like theirs have 0.01 to 0.1.
CALIBRATION_NOTE = 0.15

# --- collapse (X6) ---

# --- ranking (X7) ---

# --- parity (X8) ---
# The token that a trained model predicts is the one it gives the least loss: by this share of the loss of the next
# token, and by this many standard errors of the paired difference, so that chance cannot choose.
OFFSET_GAIN = 0.02
OFFSET_STANDARD_ERRORS = 6.0
# At offset 0 an untrained model with tied tables is good already: it must have become better than a fresh one by this.
COPIES_BETTER_THAN_FRESH = 0.5
# The model's own loss and the cross entropy of its logits, as a share: sums in another order; wrong offsets are far.
SAME_LOSS = 1e-4
# Rows that follow the cross entropy so closely (correlation) differ by a part beside it, such as label smoothing.
FOLLOWS_LOSS = 0.95
# bfloat16 keeps 3 digits: losses of healthy models move by less than this share.
BFLOAT16_LOSS = 0.02
# Larger models are not copied, saved and rebuilt for the sake of a check.
COPIED_BYTES = 2 * 2**30

# --- data (X9) ---

# --- sampling (X10) ---

# --- training (the log of a run) ---
