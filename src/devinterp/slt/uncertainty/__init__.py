"""How sure an average over chains is: intervals, batch means, and what ArviZ makes of them."""
