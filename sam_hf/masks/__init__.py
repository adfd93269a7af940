"""Pure functions on masks, boxes and the pictures they are drawn on. Imports nothing from the other rooms."""
