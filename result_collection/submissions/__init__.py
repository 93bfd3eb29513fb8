"""The files that the GLUE and SuperGLUE servers take."""
