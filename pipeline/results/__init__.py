"""Results that stages write and others read: one class for each stage, filled by the one and validated by the others.

A new figure is a field with a default here, a value where the stage fills the class, and a line in the section of the
report that shows it.
"""
