"""Every threshold of the doctor, with its reason. Calibrated on healthy models: see docs/doctor.md.

They are ratios wherever a ratio can be had, so that they hold for any width, depth, vocabulary and seed.
"""

# --- leak (X1) ---

# --- size (X2) ---

# --- gradient (X3) ---

# --- memorise (X4) ---

# --- distribution (X5) ---

# --- collapse (X6) ---

# --- ranking (X7) ---

# --- parity (X8) ---

# --- data (X9) ---

# --- sampling (X10) ---

# --- training (the log of a run) ---
