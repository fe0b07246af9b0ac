"""The machine a run meets: devices, precision, memory, processes, signals, output."""
