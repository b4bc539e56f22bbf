"""Who is it, what was decided, and why. Pure: no I/O, no clock (time is an argument), no protocol replies.

`authenticate` is the only function that decides who a peer is; everything else here is a value it reads or makes.
"""
