"""Parameters of published code, said in settings of the engine; one file for each code base."""
