"""Jobs: a command's cells one after the other or in other processes, what they would cost, and the texts after them."""
