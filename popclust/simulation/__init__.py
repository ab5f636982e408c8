"""A population of simulated chest CTs with planted groups, reports and the truth about both.

Demo, tests and benchmarks share it. It knows nothing of the stages that will study it: the sentences of its reports
are written apart from the trigger tables of :mod:`popclust.reports`, and its groups apart from any feature.

anatomy     one procedural thorax in atlas coordinates
branching   vessel and airway trees
painting    numba kernels that put tubes, spheres and sampled fields on a grid
person      the smooth map between the atlas and one person, both ways
disease     what each planted group changes in the lung
scanner     series geometry, reconstruction kernels and noise
rendering   one person with one disease on one scanner: HU
reporting   findings and the English or German report
population  the plan of a population, in small frozen records
writing     one volume of the plan on disk, tables, atlas
"""
