"""Many trainings, one result file each: what is stored is kept, what fails stops nothing."""
