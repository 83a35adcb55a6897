"""The parts of the screen, one a file. Each draws its own segments from parts of text and tone; none parses markup."""
