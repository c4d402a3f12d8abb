"""Plugins that need nothing but the kernel; they enter through its entry points like anybody's.

One rule: the core never imports them, and importing one of them costs nothing heavy.
"""
