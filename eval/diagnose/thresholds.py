"""Every threshold of the doctor, with its reason. Calibrated on healthy models: see docs/doctor.md.

They are ratios wherever a ratio can be had, so that they hold for any width, depth, vocabulary and seed.
"""

import re

# --- leak (X1) ---
# Changes below this share of the logits' spread are rounding: float32 has 1e-7, a deep model multiplies it by tens,
# and a leak that teaches anything moves logits by percents. Held with the model's own noise beside it: see
# exact.Yardstick.
SAME_LOGITS = 1e-4
# Measured noise is a maximum over few numbers; the maximum over all that are compared may be some times larger.
ABOVE_NOISE = 10.0
# In last digits of the largest logit: changes below the first are rounding whatever is measured, and noise between
# batch shapes is believed up to the second. They matter for half precision, and for logits far from 0.
SURE_ROUNDING = 4.0
BELIEVED_ROUNDING = 32.0
# A first layer that knows positions changes when its past is put in another order. Without positions only the order
# of a sum differs: below 1e-6 of the spread. An untrained rotary layer, the weakest known, moves by 1e-4 and more.
ORDER_MATTERS = 1e-5
# Order is asked for only where other tokens move the same thing by this share of its spread: what hardly reads them (a
# decoder that learned to do without its source) cannot show their order above rounding.
READS = 1e-3

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
# Shares of their length below which weights, and gradients, are the same: training lets float32 rounding grow a
# little, while two random rows, or two copies that are read differently, differ by their whole length.
SAME_ROWS = 1e-3
SAME_GRADIENT = 1e-2

# Largest singular value of a block's matrices above that of random numbers: fresh blocks of 12 architectures have at
# most 0.02 in any matrix, trained ones at least 0.77 in one of them.
LIKE_RANDOM, UNLIKE_RANDOM = 0.1, 0.3

# --- gradient (X3) ---
# A layer whose output differs from its input by less than this share of it does nothing: float32 rounding is 1e-7, and
# layers of trained models change their input by percents.
LAYER_DOES_NOTHING = 1e-5
# A layer of which this share of the weights is zero was zeroed, not pruned (pruning keeps 1 in 20 or more).
LAYER_IS_ZERO = 0.99
# A loss that moves by this much when weights are shaken hangs on them: float32 rounds a loss of 5 by 5e-7.
LOSS_MOVES = 1e-5
# The loss falls along the gradient as the gradient says, to this share (curvature beside it is measured and allowed
# for): a stop in the way takes at least a branch out.
SLOPE_DIFFERS = 0.1
# Spread of the squared lengths of a table's rows: sinusoids have d / 2 up to float32, drawn or trained rows percents.
SAME_LENGTHS = 1e-5
# Between the layers with the most and the least gradient per weight. Ten stock architectures, 64 wide, of 12 layers,
# untrained: 1 to 47 (BERT and RoBERTa, whose norms stand after the sum, above 40; the others up to 16); four of them
# of 2 layers, trained: 1 to 4. The limits stand two and five powers of ten above.
GRADIENT_RATIO_NOTE = 1e4
GRADIENT_RATIO_FAIL = 1e7
# Of all gradients together. The same models have 0.8 to 7; clipping at 1 is the rule.
GRADIENT_NORM_NOTE = 1e3
# An AdamW step moves a weight by about the learning rate; a healthy step is 1e-4 to 1e-2 of the weights, and with the
# largest sensible rates on new small weights 0.3 (Karpathy, A Recipe for Training Neural Networks, has 1e-3).
UPDATE_RATIO_FAIL = 1.0
UPDATE_RATIO_TOO_SMALL = 1e-7
# After so many steps on one batch its loss is below the start at any rate that can train.
UPDATE_STEPS = 8
# Frames are mostly black: the loss of a video model is low early, and the first cold steps of AdamW at a rate that
# trained it from nothing lift it. After a few more it is below.
UPDATE_STEPS_OF_VIDEO = 24
# The same steps at this share of the rate tell a rate that is too large from a model that cannot learn.
SMALLER_RATE = 0.01

# --- memorise (X4) ---
# "Memorised": prediction loss above its floor, in nats, and (nearly) every answer is the true token.
MEMORISED_LOSS, MEMORISED_RIGHT = 0.1, 0.95
SENTENCE_STEPS, BATCH_STEPS, SAMPLE_STEPS, SAMPLES = 100, 200, 200, 100
# Long enough that most tokens differ, short enough for 10M parameters; the row with most different tokens is taken.
SENTENCE_LENGTH, SENTENCES_TO_CHOOSE_FROM = 24, 32
# Of the tokens: several in one sentence, so that a model that cannot tell positions apart cannot learn them.
HOLES_SHARE = 0.3
# AdamW. Untrained models of 0.1M to 10M parameters memorise a sentence at 3e-3 or 1e-3 in 15 to 60 steps; the outer
# two are for very wide and very narrow ones.
RATES = (3e-3, 1e-3, 1e-2, 3e-4)
WARM_UP_STEPS = 10
LOOK_EVERY = 5
# Who has not lost 3 % of the loss in the last 20 of at least 40 steps is not on the way to memorise it at this rate.
STEPS_TO_GIVE_UP, STANDING_STILL = 40, 0.97
# A guess that ignores the input reaches the entropy of the true tokens: above half of it nothing was learnt.
BROKEN_SHARE_OF_ENTROPY = 0.5
# A rate within these factors of the one that served is not tried: nothing is proved by it. A rate below that at which
# 100 steps take off less than a thousandth of the loss moves nothing.
RATE_TOO_HIGH, RATE_TOO_LOW, RATE_MOVES_NOTHING = 5.0, 100.0, 1e-3
# Under 100 steps a hundred samples say nothing; after them a model that learns has lost a tenth of its loss.
SAMPLE_STEPS_TO_JUDGE, SAMPLES_FALL = 100, 0.1
# A cosine head whose scale is the prediction's own length has no floor for long ones.
LONG_PREDICTION = 100.0
# Of the report's 60 s, and how they are shared out.
MEMORISE_SECONDS, REPORT_SECONDS = 14.0, 60.0
SENTENCE_SHARE, RATE_SHARE, BATCH_SHARE = 0.5, 0.2, 0.4
# Seconds are the processor's, so that a busy machine changes no verdict; it may take so many times as long.
PATIENCE = 4.0
MEMORY_SHARE = 0.5  # of what is free

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
# A repair lowers the loss by this share and these paired standard errors (some forty are tried), and predicts more
# tokens right beyond chance: an overfitted or badly calibrated model gains loss, and no right token, when a layer is
# left out. Of all of them on 17 healthy models of 16 architectures, the best gained 0.3 % and 2.8 errors.
REPAIRED, REPAIRED_ERRORS, REPAIRED_RIGHT_ERRORS = 0.01, 6.0, 2.0
# Nats of a token that stands in the input: healthy masked models, which are asked for some of them, have 0.3 to 4.
SHOWN_TOKEN = 0.1
# Mass on ids that are no token: a trained model has under a thousandth, softmax over a padded table at the start all.
UNUSED_MASS_NOTE, UNUSED_MASS_FAIL = 0.01, 0.1
# Positions below which nothing can be said.
FEWEST_POSITIONS = 50
# Expected calibration error. Tiny GPT-2, Llama, GPT-NeoX and BLOOM models have 0.05 to 0.08 on held-out text like
# theirs; twice that is worth a note, and never more than one.
CALIBRATION_NOTE = 0.15
# Of the codes of a digit that has moved on, a model that predicts copies next to none; one that copies copies all.
COPIED_LAST = 0.9

# --- collapse (X6) ---
# Spread of a typical dimension over different tokens, as a share of its root mean square; below it 99 % of the square
# is the same for every token. Trained models have 0.3 (a BERT that knows frequencies only) to 1, untrained ones 0.8.
# The median over dimensions, since a few dimensions of healthy pretrained models are nearly constant and very large.
SPREAD_COLLAPSED = 0.1
# Mean cosine of two vectors of a latent model, whose answers are directions: in models that rank their answers 0.6
# after 20 steps and 0.1 to 0.3 later; 0.97 to 1 where alignment alone let them fall together.
COSINE_COLLAPSED = 0.9
# Every model passes through nearly constant vectors when it learns how frequent tokens are (a spread of 0.01 to 0.1
# after 10 to 20 steps of a large rate). Some AdamW steps at the better of two usual rates tell: young models come to
# 0.6 to 0.9, encoders whose loss a constant satisfies, and ones after a rate far too high, to 0.1 to 0.35.
STEPS_TO_SPREAD, RATES_TO_SPREAD, SPREAD_REGAINED = 40, (3e-3, 1e-3), 0.5
# Effective rank of the last vectors as a share of that of the embeddings of the same tokens: what is left of the
# directions that came in. Trained models keep 0.4 to 1, and half trained ones at least a tenth.
RANK_KEPT = 0.05
# Latent models: share of the tokens whose nearest other vector is one of the same token, over that of the embeddings.
# Where the answers are ranked it is 0.88 to 1, at the start 1; where a loss lets the encoder forget, 0.1 to 0.5.
TOKENS_TOLD_APART = 2 / 3
# ... and then they also have fewer directions than this; an encoder that keeps all of them has only mixed its tokens.
RANK_KEPT_LATENT = 0.6
# Fewer different tokens say nothing about directions.
FEWEST_VECTORS = 64
# Mean cosine of what a predictor gives with what it got. A trained or random layer is far from it.
PREDICTOR_SAME = 0.999
# Variation of what it gives over that of what it got, each as a share of the square: below it, it is a constant.
PREDICTOR_CONSTANT = 1e-3
# Share of its way to the student that a teacher has gone between two checkpoints, at least so many steps apart.
TEACHER_MOVED = 1e-3
TEACHER_STEPS = 100
# Share of a teacher that cannot be its start any more, by its updates: below, its momentum keeps it where it began.
TEACHER_RENEWED = 0.01
# Dialogue: mean cosine of the latents of different replies, or of predictions, above which they are one latent.
# What latents have in common counts in it, so that healthy ones of 45 directions have 0.90 to 0.96.
SAME_LATENTS = 0.995
# Nats per token by which the latents of other contexts must be worse: those of a decoder that listens cost 0.02 and
# more, and with nothing but the latents to go by 0.1 to 0.3.
LATENT_WORTH = 0.005
# Largest singular value over that of random numbers of the same shape and size: 1 +- 0.05 for fresh weights, and more
# for trained ones. The student must be above random by this before the teacher's share of it is looked at.
ABOVE_RANDOM = 0.1
TEACHER_ABOVE_RANDOM = 0.25

# --- ranking (X7) ---
# acc_neg that anybody would call good: 32 uniform negatives give it at rank 170 of 8,000 already.
GOOD_ACC_NEG = 0.5
# Standard errors by which top-1 must beat the most frequent token to be more than a guess by frequency.
ABOVE_UNIGRAM_ERRORS = 2.0
POOR_MEDIAN_RANK = 20.0
# Cosine of a token's row with its nearest neighbour from which no prediction can tell the two apart.
TWIN_COSINE = 0.99
# Share of the tokens of the text with such a neighbour: names and numbers come in pairs; a tenth is no accident, and
# half a table is not one any more.
TWINS_NOTE, TWINS_FAIL = 0.1, 0.5

# --- parity (X8) ---
# The token that a trained model predicts is the one it gives the least loss: by this share of the loss of the next
# token, and by this many standard errors of the paired difference, so that chance cannot choose.
OFFSET_GAIN = 0.02
OFFSET_STANDARD_ERRORS = 6.0
# At offset 0 an untrained model with tied tables is good already: it must have become better than a fresh one by this.
COPIES_BETTER_THAN_FRESH = 0.5
# Video. Learnt pictures may meet by chance; fewer different ones than this, and coding has no choice.
DIFFERENT_PICTURES = 0.9
# Of the loss at the right frame: a model that gives the frame before has seen it, and pays next to nothing.
SHIFTED_IN_TIME = 0.25
# By so much less often is black said where there is something, by any model that knows more than one code.
SAID_ELSEWHERE = 0.02
# Share of the codes other than the most frequent one that would be right under other numbers, and are not. A trained
# model's errors are spread over similar pictures: no renaming gains more than some points.
RENAMED_BETTER = 0.2
# Distance (total variation) of the codes' shares from those of training. Other clips of the same digits are within
# 0.02 (most squares are black in both), clips of other handwriting within 0.1.
UNLIKE_TRAINING = 0.5
# The model's own loss and the cross entropy of its logits, as a share: sums in another order; wrong offsets are far.
SAME_LOSS = 1e-4
# Rows that follow the cross entropy so closely (correlation) differ by a part beside it, such as label smoothing.
FOLLOWS_LOSS = 0.95
# bfloat16 keeps 3 digits: losses of healthy models move by less than this share.
BFLOAT16_LOSS = 0.02
# Larger models are not copied, saved and rebuilt for the sake of a check.
COPIED_BYTES = 2 * 2**30

# --- data (X9) ---
# Of unknown tokens a check says as much as training, which warns and refuses by the shares of training.data.unknown.
TOKENS_PER_WORD = 4.0
TEXTS_TO_TOKENIZE, CHARACTERS_TO_TOKENIZE = 2_000, 2_000
# Shorter rows repeat in every corpus, by nature. Of longer ones web corpora repeat 3 to 14 % (Lee et al., 2022,
# arXiv:2107.06499, table 2: near-duplicates), curated ones under 1 %.
SHORTEST_ROW = 6
REPEATED_NOTE, REPEATED_FAIL = 0.02, 0.15
# Held-out rows in training: by chance few rows of six words and more; 8-grams as in the overlap studies of PaLM
# (Chowdhery et al., 2022, arXiv:2204.02311, section 8: 70 % of a row's 8-grams).
OVERLAP_NOTE, OVERLAP_FAIL = 0.01, 0.05
NGRAM, NEAR_SHARE = 8, 0.7
OVERLAPPING_ROWS = 3  # of a small held-out part one stock phrase may be some percent
WORDS_TO_COMPARE, HELD_OUT_ROWS, ROWS_TO_DECODE = 1_000_000, 2_000, 20_000
# The library's masks leave 10 % of the labelled positions as they are; with a share above a third most of what the
# loss counts was never hidden.
VISIBLE_NOTE, VISIBLE_FAIL = 0.2, 0.34
# Video models are never shown a code that they should predict.
VISIBLE_CODES = 0.05
BATCHES_TO_LOOK_AT, FEWEST_LABELS = 8, 50
# Figures that should be equal differ by float rounding only: a loss moves by less than this share of itself.
LOSS_ROUNDING = 1e-4
MORE_PADDING = 8
# Video: share of the frames' energy that coding takes away. Learnt codes lose 4 to 11 %, sixteen greys under 1 %; what
# loses half of it shows no digit any more.
CODING_LOSES, CODING_LOSES_ALL = 0.2, 0.5
# Coding is to the nearest picture, so decoded frames have the same codes unless pictures are equal.
UNCHANGED = 0.99

# --- sampling (X10) ---
PROMPTS, PROMPT_LENGTH, NEW_TOKENS, GRAM = 4, 16, 32, 4
# Drawn from the 50 best, healthy models repeat under a tenth of their 4-grams; greedy small ones most of them.
REPEATING = 0.5
# Draws that hit fewer than twice as often as chance tell nothing of what is likely.
ABOVE_CHANCE = 2.0
# acc_neg in the field, and in our latent models: against 32 uniform negatives.
NEGATIVES = 32
ACCURACY_NAME = re.compile(r"(^|[_/ -])(acc|accuracy)$", re.IGNORECASE)
# A claim is measured on another part of the text: accuracies of parts lie within two points beside their counting
# error. It is named as another figure where that lies three times nearer than the accuracy, and only where our loss
# is within a tenth of the one that the run logged: else the text is another one. Below ten points nothing is noted.
CLAIM_APART, CLAIM_NEARER, OTHER_PART, TEXT_ALIKE = 0.1, 1 / 3, 0.02, 0.1
# Made-up answers: an exact figure has no noise, a drawn one over a thousand positions about 0.015.
METRIC_ROUNDING, METRIC_NOISE = 1e-3, 0.05

# --- training (the log of a run) ---
# Rates from 1e-4 to 5e-3 train transformers with AdamW; above twice the largest, a loss that shows no learning is its.
LARGE_RATE = 1e-2
# Share of the loss of guessing by frequency that a run must have got below to have learnt more than frequencies.
MORE_THAN_FREQUENCIES = 0.97
# Steps at full rate, and rows, before a loss says whether it falls: the first thing learnt takes tens of steps.
FULL_RATE_STEPS, FEWEST_ROWS = 50, 4
# A run that begins above this share of ln V began from nothing; a pretrained model may start where it stays.
FROM_NOTHING = 0.85
# Above the lowest loss by this factor, and by this share of the first one (a loss near 0 doubles by noise).
DIVERGED, DIVERGED_OF_FIRST = 1.5, 0.1
# Knowing nothing costs ln V; a loss above it by a twentieth that has hardly fallen is worse than knowing nothing.
ABOVE_LN_V, HARDLY_FALLEN = 1.05, 0.9
# The Trainer logs 0.0 in place of NaN; from above this, in nats, no loss falls to nothing within one row.
LOSS_BEFORE_ZERO = 0.1
# Held-out loss over that of guessing by frequency: the best language models known leave a sixth of it on any text.
TOO_GOOD = 0.05
# A peak rate below this trains nothing from random weights; fine-tuning of large models begins above 1e-6.
SMALL_RATE = 1e-5
# Held-out loss over its best: runs that are stopped late lie within a tenth; half of it more is another model.
OVERFITTED_NOTE, OVERFITTED_FAIL = 1.1, 1.5
MANY_EPOCHS = 20
# A rise that lasts for two rows, in nats and of the fall so far. Noise of a row is a tenth of that.
JUMPED, JUMPED_OF_FALL = 0.5, 0.25
# The log's loss over the model's own on its text: training text costs less than held-out text, not more.
MULTIPLE_OF_OWN = 1.5
# Share of a step's time that waits for data: loaders in memory take a hundredth.
WAITING_NOTE, WAITING_FAIL = 0.2, 0.5
BATCHES_TO_TIME, SECONDS_TO_TIME = 6, 6.0
