"""What every layer above needs and no layer owns: errors, file names, records, wording."""
