"""Pure codecs of other programs' protocols."""
