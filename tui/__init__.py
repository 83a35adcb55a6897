"""The console: a terminal screen that shows a consumer as it is and lets an operator act on it."""
