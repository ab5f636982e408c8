"""What radiologists write: sentences per finding and language, and the frame of a report.

Written apart from the trigger tables of :mod:`popclust.reports` on purpose: a list tested against itself proves
nothing. Present, absent and uncertain mentions stand in that order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentences:
    """Ways to mention one finding in one language."""

    present: tuple[str, ...]
    """The finding is there."""
    absent: tuple[str, ...]
    """It is not."""
    uncertain: tuple[str, ...]
    """It may be."""
    question: str
    """How an indication asks about it or a history recalls it: neither says that it is there."""


ENGLISH: dict[str, Sentences] = {
    "RID4799": Sentences(
        ("Marked centrilobular emphysema with upper lobe predominance.", "Extensive emphysematous changes of both upper lobes.",
         "Severe pulmonary emphysema is seen bilaterally."),
        ("No emphysema.", "There is no evidence of emphysema."),
        ("Possible mild emphysema.",), "History of emphysema."),
    "RID28502": Sentences(
        ("Several subpleural bullae in the apices.", "A large bulla is present in the right upper lobe.", "Bullous changes at both apices."),
        ("No bullae.",), ("Possible small bulla at the apex.",), "Rule out bulla."),
    "RID5884": Sentences(
        ("The lungs are hyperinflated.", "Hyperinflated lungs with flattened diaphragms.", "Hyperinflation of both lungs."),
        ("The lungs are not hyperinflated.",), ("The lungs may be slightly hyperinflated.",), "Hyperinflation on the chest radiograph."),
    "RID28531": Sentences(
        ("Patchy ground-glass opacities in both lungs.", "Bilateral ground glass opacity in a perihilar and dependent distribution.",
         "Diffuse ground-glass attenuation, most pronounced in the dependent lung."),
        ("No ground-glass opacities.", "There is no ground glass opacity."),
        ("Questionable faint ground-glass opacity.",), "Prior CT with ground-glass opacities."),
    "RID28510": Sentences(
        ("Interlobular septal thickening.", "Smooth thickening of the interlobular septa within these areas.",
         "Superimposed interlobular septal thickening."),
        ("No interlobular septal thickening.",), ("Possible mild interlobular septal thickening.",), "Septal lines on the radiograph."),
    "RID5350": Sentences(
        ("Appearances are in keeping with pneumonia.", "Findings consistent with atypical pneumonia.", "Bilateral pneumonia."),
        ("No pneumonia.", "No evidence of pneumonia."), ("Pneumonia cannot be excluded.",), "Pneumonia?"),
    "RID43255": Sentences(
        ("Dense consolidation of the lower lobe with air bronchograms.", "Lobar consolidation.", "Consolidations in both lower lobes."),
        ("No consolidation.", "No focal consolidation is identified."), ("Possible small consolidation.",), "Consolidation on the radiograph."),
    "RID3820": Sentences(
        ("Advanced pulmonary fibrosis with basal and peripheral predominance.", "Fibrotic changes of both lung bases.",
         "Basal fibrosis of both lungs."),
        ("No pulmonary fibrosis.", "There is no evidence of fibrosis."), ("Early fibrosis cannot be excluded.",), "Known pulmonary fibrosis."),
    "RID35280": Sentences(
        ("Subpleural honeycombing at the bases.", "Extensive honeycombing is present.", "Honeycomb lung in the lower lobes."),
        ("No honeycombing.", "Without honeycombing."), ("Questionable honeycombing.",), "Honeycombing?"),
    "RID38794": Sentences(
        ("Coarse subpleural reticulation.", "Reticulations in the periphery of both lower lobes.", "Peripheral reticular opacities."),
        ("No reticulation.",), ("Possible subtle reticulation.",), "Reticulation on the radiograph."),
    "RID28528": Sentences(
        ("Traction bronchiectasis in the lower lobes.", "There is associated traction bronchiectasis.",
         "Traction bronchiectases of the basal segments."),
        ("No traction bronchiectasis.",), ("Possible mild traction bronchiectasis.",), "Traction bronchiectasis?"),
    "RID28496": Sentences(
        ("Bronchiectasis of the lower lobes.",), ("No bronchiectasis.",), ("Possible mild bronchiectasis.",), "Bronchiectasis?"),
    "RID50149": Sentences(
        ("Innumerable pulmonary nodules in both lungs.", "Multiple bilateral lung nodules.", "Numerous pulmonary nodules of varying size."),
        ("No pulmonary nodules.", "No suspicious pulmonary nodule."), ("A small pulmonary nodule cannot be excluded.",), "Follow-up of a pulmonary nodule."),
    "RID5231": Sentences(
        ("The appearance is that of metastases.", "Pulmonary metastases.", "Findings consistent with metastatic spread, with lung metastases."),
        ("No metastases.", "There is no evidence of metastasis."), ("Suspicious for metastases.",), "Metastases?"),
    "RID34539": Sentences(
        ("Large bilateral pleural effusions.", "Bilateral pleural effusion, layering dependently.", "Moderate pleural effusions on both sides."),
        ("No pleural effusion.", "There is no evidence of pleural effusion.", "Negative for pleural effusions."),
        ("A trace pleural effusion is possible.",), "Pleural effusion?"),
    "RID28493": Sentences(
        ("Adjacent compressive atelectasis.", "Atelectasis of the dependent lower lobes.", "Lower lobe atelectases."),
        ("No atelectasis.",), ("Possible minor atelectasis.",), "Atelectasis on the chest radiograph."),
    "RID4897": Sentences(
        ("Hiatal hernia.", "Moderate sliding hiatal hernia.", "Incidental note is made of a hiatus hernia."),
        ("No hiatal hernia.",), ("Possible small hiatal hernia.",), "Known hiatal hernia."),
    "RID3829": Sentences(
        ("Linear scars in the lung.", "Residual scarring is noted.", "A few pulmonary scars."),
        ("No scarring.",), ("This may represent a scar.",), "Scar after surgery."),
    "RID5196": Sentences(
        ("Calcifications of the aorta and coronary arteries.", "Vascular calcification.", "Atherosclerotic calcifications of the thoracic aorta."),
        ("No calcifications.",), ("Questionable faint calcification.",), "Known coronary calcification."),
    "RID4650": Sentences(
        ("Old healed rib fracture on the left.", "A left lateral rib fracture is noted.", "Healed fracture of a left rib."),
        ("No fracture.", "No acute fractures are identified."), ("A rib fracture cannot be excluded.",), "Fall, fracture?"),
    "RID3953": Sentences(
        ("Calcified granuloma.", "A small granuloma is present.", "Single calcified lung granuloma."),
        ("No granuloma.",), ("This may represent a granuloma.",), "Granuloma seen previously."),
    "RID3798": Sentences(
        ("Mediastinal lymphadenopathy.", "Enlarged mediastinal lymph nodes consistent with lymphadenopathy.", "There is lymphadenopathy in the mediastinum."),
        ("No lymphadenopathy.", "No mediastinal or hilar lymphadenopathy."), ("Possible borderline lymphadenopathy.",), "Lymphadenopathy?"),
    "RID5352": Sentences(
        ("Pneumothorax.",), ("No pneumothorax.", "There is no pneumothorax."), ("A tiny pneumothorax is possible.",), "Pneumothorax?"),
    "RID38588": Sentences(
        ("Pericardial effusion.",), ("No pericardial effusion.",), ("Possible trace pericardial effusion.",), "Pericardial effusion?"),
}  # fmt: skip
"""English sentences by RadLex id."""

GERMAN: dict[str, Sentences] = {
    "RID4799": Sentences(
        ("Ausgeprägtes zentrilobuläres Emphysem mit Betonung der Oberlappen.", "Deutliche emphysematöse Veränderungen beider Oberlappen.",
         "Fortgeschrittenes Lungenemphysem beidseits."),
        ("Kein Emphysem.", "Kein Nachweis eines Lungenemphysems."), ("V. a. beginnendes Emphysem.",), "Bekanntes Emphysem."),
    "RID28502": Sentences(
        ("Mehrere subpleurale Bullae apikal.", "Große Bulla im rechten Oberlappen.", "Bullöse Veränderungen in beiden Lungenspitzen."),
        ("Keine Bullae.",), ("Fragliche kleine Bulla apikal.",), "Ausschluss Bulla."),
    "RID5884": Sentences(
        ("Überblähung beider Lungen.", "Überblähte Lungen mit abgeflachten Zwerchfellen.", "Die Lungen sind überbläht."),
        ("Keine Überblähung.",), ("Mögliche leichte Überblähung.",), "Überblähung im Röntgenbild."),
    "RID28531": Sentences(
        ("Fleckige Milchglastrübungen beidseits.", "Bilaterale Milchglasverdichtungen perihilär und in den abhängigen Partien.",
         "Ausgedehntes Milchglas beider Lungen."),
        ("Keine Milchglastrübungen.", "Kein Nachweis von Milchglasverdichtungen."), ("Fragliche diskrete Milchglastrübung.",), "In der Voruntersuchung Milchglas."),
    "RID28510": Sentences(
        ("Interlobuläre Septenverdickung.", "Verdickte interlobuläre Septen in diesen Arealen.", "Begleitende Verdickung der Interlobärsepten."),
        ("Keine interlobuläre Septenverdickung.",), ("Mögliche geringe Septenverdickung.",), "Kerley-Linien im Röntgenbild."),
    "RID5350": Sentences(
        ("Das Bild entspricht einer Pneumonie.", "Bilaterale Pneumonie.", "Atypische Pneumonie beidseits."),
        ("Keine Pneumonie.", "Kein Anhalt für eine Pneumonie."), ("Eine Pneumonie ist nicht auszuschließen.",), "Pneumonie?"),
    "RID43255": Sentences(
        ("Konsolidierung des Unterlappens mit Bronchopneumogramm.", "Lobäre Konsolidation.", "Konsolidierungen beider Unterlappen."),
        ("Keine Konsolidierung.", "Keine fokale Konsolidation."), ("Mögliche kleine Konsolidierung.",), "Verdichtung im Röntgenbild."),
    "RID3820": Sentences(
        ("Fortgeschrittene Lungenfibrose mit basaler und peripherer Betonung.", "Fibrotische Veränderungen beider Lungenbasen.",
         "Basale Fibrose beider Lungen."),
        ("Keine Lungenfibrose.", "Kein Hinweis auf eine Fibrose."), ("Beginnende Fibrose nicht auszuschließen.",), "Bekannte Lungenfibrose."),
    "RID35280": Sentences(
        ("Subpleurales Honeycombing basal.", "Ausgedehnte Honigwabenmuster.", "Honigwabenlunge in den Unterlappen."),
        ("Kein Honeycombing.", "Ohne Honigwabenmuster."), ("Fragliches Honeycombing.",), "Honeycombing?"),
    "RID38794": Sentences(
        ("Grobe subpleurale Retikulationen.", "Retikuläre Verdichtungen in der Peripherie beider Unterlappen.", "Periphere retikuläre Zeichnungsvermehrung."),
        ("Keine Retikulationen.",), ("Mögliche zarte Retikulation.",), "Retikuläre Zeichnung im Röntgenbild."),
    "RID28528": Sentences(
        ("Traktionsbronchiektasen in den Unterlappen.", "Begleitende Traktionsbronchiektasen.", "Basal Traktionsbronchiektasien."),
        ("Keine Traktionsbronchiektasen.",), ("Mögliche geringe Traktionsbronchiektasen.",), "Traktionsbronchiektasen?"),
    "RID28496": Sentences(
        ("Bronchiektasen der Unterlappen.",), ("Keine Bronchiektasen.",), ("Mögliche geringe Bronchiektasen.",), "Bronchiektasen?"),
    "RID50149": Sentences(
        ("Zahllose Lungenrundherde beidseits.", "Multiple pulmonale Rundherde.", "Zahlreiche Lungenrundherde unterschiedlicher Größe."),
        ("Keine Lungenrundherde.", "Kein suspekter pulmonaler Rundherd."), ("Ein kleiner Lungenrundherd ist nicht auszuschließen.",), "Kontrolle eines Rundherdes."),
    "RID5231": Sentences(
        ("Das Bild entspricht Metastasen.", "Pulmonale Metastasen.", "Disseminierte Lungenmetastasen."),
        ("Keine Metastasen.", "Kein Nachweis von Metastasen."), ("V. a. Metastasen.",), "Metastasen?"),
    "RID34539": Sentences(
        ("Große Pleuraergüsse beidseits.", "Beidseitiger Pleuraerguss.", "Ausgedehnter Pleuraerguss beidseits, dorsal auslaufend."),
        ("Kein Pleuraerguss.", "Kein Nachweis eines Pleuraergusses.", "Keine Pleuraergüsse."),
        ("Fraglicher minimaler Pleuraerguss.",), "Pleuraerguss?"),
    "RID28493": Sentences(
        ("Angrenzende Kompressionsatelektasen.", "Atelektase der abhängigen Unterlappenanteile.", "Atelektasen der Unterlappen."),
        ("Keine Atelektase.", "Keine Atelektasen."), ("Mögliche geringe Atelektase.",), "Atelektase im Röntgenbild."),
    "RID4897": Sentences(
        ("Hiatushernie.", "Mäßig große axiale Hiatushernie.", "Nebenbefundlich Hiatushernie."),
        ("Keine Hiatushernie.",), ("Mögliche kleine Hiatushernie.",), "Bekannte Hiatushernie."),
    "RID3829": Sentences(
        ("Strichförmige Narben.", "Residuelle narbige Veränderungen.", "Einzelne pulmonale Narben."),
        ("Keine Narben.",), ("Am ehesten fragliche Narbe.",), "Narbe nach Operation."),
    "RID5196": Sentences(
        ("Verkalkungen der Aorta und der Koronararterien.", "Gefäßverkalkungen.", "Atherosklerotische Verkalkung der Aorta."),
        ("Keine Verkalkungen.",), ("Fragliche zarte Verkalkung.",), "Bekannte Koronarverkalkung."),
    "RID4650": Sentences(
        ("Alte konsolidierte Rippenfraktur links.", "Rippenfraktur links lateral.", "Zustand mit verheilter Fraktur einer linken Rippe."),
        ("Keine Fraktur.", "Kein Nachweis einer frischen Fraktur."), ("Eine Rippenfraktur ist nicht auszuschließen.",), "Sturz, Fraktur?"),
    "RID3953": Sentences(
        ("Verkalktes Granulom.", "Kleines Granulom.", "Einzelnes verkalktes Lungengranulom."),
        ("Kein Granulom.",), ("DD Granulom.",), "Granulom in der Voruntersuchung."),
    "RID3798": Sentences(
        ("Mediastinale Lymphadenopathie.", "Vergrößerte mediastinale Lymphknoten im Sinne einer Lymphadenopathie.", "Ausgeprägte Lymphadenopathie im Mediastinum."),
        ("Keine Lymphadenopathie.", "Keine mediastinale oder hiläre Lymphadenopathie."), ("V. a. grenzwertige Lymphadenopathie.",), "Lymphadenopathie?"),
    "RID5352": Sentences(
        ("Pneumothorax.",), ("Kein Pneumothorax.", "Ein Pneumothorax liegt nicht vor."), ("Fraglicher minimaler Pneumothorax.",), "Pneumothorax?"),
    "RID38588": Sentences(
        ("Perikarderguss.",), ("Kein Perikarderguss.",), ("Möglicher geringer Perikarderguss.",), "Perikarderguss?"),
}  # fmt: skip
"""German sentences by RadLex id."""


@dataclass(frozen=True)
class Frame:
    """What stands around the findings."""

    headings: tuple[tuple[str, str, str], ...]
    """Variants of the headings for indication, findings and impression."""
    indications: tuple[str, ...]
    """Reasons for the examination that name no finding."""
    fillers: tuple[str, ...]
    """Sentences of normal anatomy that name no finding."""
    unremarkable: str
    """The impression where there is nothing to say."""
    resolved: str
    """How a finding of an earlier examination is said to be gone; {} takes the English or German question."""


ENGLISH_FRAME = Frame(
    (
        ("Clinical indication:", "Findings:", "Impression:"),
        ("INDICATION:", "FINDINGS:", "IMPRESSION:"),
        ("Clinical history:", "Findings:", "Conclusion:"),
    ),
    (
        "Cough.",
        "Dyspnea.",
        "Staging.",
        "Follow-up.",
        "Chest pain.",
        "Fever of unknown origin.",
        "Preoperative assessment.",
    ),
    (
        "The heart is normal in size.",
        "The trachea and main bronchi are patent.",
        "The thoracic aorta is of normal caliber.",
        "The visualized upper abdomen is unremarkable.",
        "The thyroid is unremarkable.",
        "Comparison is made with the prior examination.",
    ),
    "Unremarkable CT of the chest.",
    "Compared with the prior examination there is no longer any sign of the following:",
)
"""Around English findings."""

GERMAN_FRAME = Frame(
    (
        ("Klinische Angaben:", "Befund:", "Beurteilung:"),
        ("Indikation:", "Befund:", "Beurteilung:"),
        ("Anamnese:", "Befund:", "Zusammenfassung:"),
    ),
    (
        "Husten.",
        "Dyspnoe.",
        "Staging.",
        "Verlaufskontrolle.",
        "Thoraxschmerz.",
        "Fieber unklarer Genese.",
        "Präoperative Abklärung.",
    ),
    (
        "Das Herz ist normal groß.",
        "Trachea und Hauptbronchien sind frei.",
        "Die Aorta ist normal weit.",
        "Die miterfassten Oberbauchorgane sind unauffällig.",
        "Die Schilddrüse ist unauffällig.",
        "Voruntersuchung zum Vergleich vorliegend.",
    ),
    "Unauffälliges CT des Thorax.",
    "Im Vergleich zur Voruntersuchung nicht mehr nachweisbar:",
)
"""Around German findings."""
