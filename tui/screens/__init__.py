"""The screens: the main one, pages that cover it, and dialogs over it."""
