"""The paper's tables and figures: trainings as data, one file a cell, and the report of them."""
