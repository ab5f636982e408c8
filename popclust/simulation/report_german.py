"""What radiologists write in German."""

from __future__ import annotations

from popclust.simulation.report_sentences import Frame, Sentences

GERMAN: dict[str, Sentences] = {
    "RID4799": Sentences(
        (
            "Emphysem mit Betonung der Oberlappen.",
            "Emphysematöse Veränderungen beider Oberlappen.",
            "Lungenemphysem beidseits.",
        ),
        ("Kein Emphysem.", "Kein Nachweis eines Lungenemphysems."),
        ("V. a. beginnendes Emphysem.",),
        "Bekanntes Emphysem.",
    ),
    "RID28502": Sentences(
        (
            "Mehrere subpleurale Bullae apikal.",
            "Große Bulla im rechten Oberlappen.",
            "Bullae in beiden Lungenspitzen.",
        ),
        ("Keine Bullae.",),
        ("Fragliche kleine Bulla apikal.",),
        "Ausschluss Bulla.",
    ),
    "RID28537": Sentences(
        (
            "Air-Trapping beidseits.",
            "Air Trapping mit abgeflachten Zwerchfellen.",
            "Deutliches Air-Trapping beider Lungen.",
        ),
        ("Kein Air-Trapping.",),
        ("Mögliches geringes Air-Trapping.",),
        "Air-Trapping?",
    ),
    "RID28531": Sentences(
        (
            "Fleckige Milchglastrübungen beidseits.",
            "Bilaterale Milchglasverdichtungen perihilär und in den abhängigen Partien.",
            "Ausgedehntes Milchglas beider Lungen.",
        ),
        ("Keine Milchglastrübungen.", "Kein Nachweis von Milchglasverdichtungen."),
        ("Fragliche diskrete Milchglastrübung.",),
        "In der Voruntersuchung Milchglas.",
    ),
    "RID28510": Sentences(
        (
            "Interlobuläre Septenverdickung.",
            "Verdickte interlobuläre Septen in diesen Arealen.",
            "Begleitende Verdickung der Interlobärsepten.",
        ),
        ("Keine interlobuläre Septenverdickung.",),
        ("Mögliche geringe Septenverdickung.",),
        "Kerley-Linien im Röntgenbild.",
    ),
    "RID5350": Sentences(
        ("Das Bild entspricht einer Pneumonie.", "Bilaterale Pneumonie.", "Atypische Pneumonie beidseits."),
        ("Keine Pneumonie.", "Kein Anhalt für eine Pneumonie."),
        ("Eine Pneumonie ist nicht auszuschließen.",),
        "Pneumonie?",
    ),
    "RID43255": Sentences(
        (
            "Konsolidierung des Unterlappens mit Bronchopneumogramm.",
            "Lobäre Konsolidation.",
            "Konsolidierungen beider Unterlappen.",
        ),
        ("Keine Konsolidierung.", "Keine fokale Konsolidation."),
        ("Mögliche kleine Konsolidierung.",),
        "Verdichtung im Röntgenbild.",
    ),
    "RID3820": Sentences(
        (
            "Fortgeschrittene Lungenfibrose mit basaler und peripherer Betonung.",
            "Fibrotische Veränderungen beider Lungenbasen.",
            "Basale Fibrose beider Lungen.",
        ),
        ("Keine Lungenfibrose.", "Kein Hinweis auf eine Fibrose."),
        ("Beginnende Fibrose nicht auszuschließen.",),
        "Bekannte Lungenfibrose.",
    ),
    "RID35280": Sentences(
        ("Subpleurales Honeycombing basal.", "Ausgedehnte Honigwabenmuster.", "Honigwabenlunge in den Unterlappen."),
        ("Kein Honeycombing.", "Ohne Honigwabenmuster."),
        ("Fragliches Honeycombing.",),
        "Honeycombing?",
    ),
    "RID38794": Sentences(
        (
            "Grobe subpleurale Retikulationen.",
            "Retikuläre Verdichtungen in der Peripherie beider Unterlappen.",
            "Periphere retikuläre Zeichnungsvermehrung.",
        ),
        ("Keine Retikulationen.",),
        ("Mögliche zarte Retikulation.",),
        "Retikuläre Zeichnung im Röntgenbild.",
    ),
    "RID28528": Sentences(
        (
            "Traktionsbronchiektasen in den Unterlappen.",
            "Begleitende Traktionsbronchiektasen.",
            "Basal Traktionsbronchiektasien.",
        ),
        ("Keine Traktionsbronchiektasen.",),
        ("Mögliche geringe Traktionsbronchiektasen.",),
        "Traktionsbronchiektasen?",
    ),
    "RID28496": Sentences(
        ("Bronchiektasen der Unterlappen.",),
        ("Keine Bronchiektasen.",),
        ("Mögliche geringe Bronchiektasen.",),
        "Bronchiektasen?",
    ),
    "RID50149": Sentences(
        ("Lungenrundherde beidseits.", "Multiple pulmonale Rundherde.", "Lungenrundherde unterschiedlicher Größe."),
        ("Keine Lungenrundherde.", "Kein suspekter pulmonaler Rundherd."),
        ("Ein kleiner Lungenrundherd ist nicht auszuschließen.",),
        "Kontrolle eines Rundherdes.",
    ),
    "RID5231": Sentences(
        ("Das Bild entspricht Metastasen.", "Pulmonale Metastasen.", "Disseminierte Lungenmetastasen."),
        ("Keine Metastasen.", "Kein Nachweis von Metastasen."),
        ("V. a. Metastasen.",),
        "Metastasen?",
    ),
    "RID34539": Sentences(
        ("Pleuraergüsse beidseits.", "Beidseitiger Pleuraerguss.", "Pleuraerguss beidseits, dorsal auslaufend."),
        ("Kein Pleuraerguss.", "Kein Nachweis eines Pleuraergusses.", "Keine Pleuraergüsse."),
        ("Fraglicher minimaler Pleuraerguss.",),
        "Pleuraerguss?",
    ),
    "RID28493": Sentences(
        (
            "Angrenzende Kompressionsatelektasen.",
            "Atelektase der abhängigen Unterlappenanteile.",
            "Atelektasen der Unterlappen.",
        ),
        ("Keine Atelektase.", "Keine Atelektasen."),
        ("Mögliche geringe Atelektase.",),
        "Atelektase im Röntgenbild.",
    ),
    "RID4897": Sentences(
        ("Hiatushernie.", "Mäßig große axiale Hiatushernie.", "Nebenbefundlich Hiatushernie."),
        ("Keine Hiatushernie.",),
        ("Mögliche kleine Hiatushernie.",),
        "Bekannte Hiatushernie.",
    ),
    "RID3829": Sentences(
        ("Strichförmige Narben.", "Residuelle narbige Veränderungen.", "Einzelne pulmonale Narben."),
        ("Keine Narben.",),
        ("Am ehesten fragliche Narbe.",),
        "Narbe nach Operation.",
    ),
    "RID5196": Sentences(
        (
            "Verkalkungen der Aorta und der Koronararterien.",
            "Grobe Verkalkung der Aortenwand.",
            "Verkalkungen im Aortenbogen.",
        ),
        ("Keine Verkalkungen.",),
        ("Fragliche zarte Verkalkung.",),
        "Bekannte Koronarverkalkung.",
    ),
    "RID4650": Sentences(
        (
            "Alte konsolidierte Fraktur einer linken Rippe.",
            "Fraktur der seitlichen Thoraxwand links.",
            "Zustand mit verheilter Fraktur einer linken Rippe.",
        ),
        ("Keine Fraktur.", "Kein Nachweis einer frischen Fraktur."),
        ("Eine Rippenfraktur ist nicht auszuschließen.",),
        "Sturz, Fraktur?",
    ),
    "RID3953": Sentences(
        ("Granulom der Lunge.", "Kleines Granulom.", "Einzelnes Lungengranulom."),
        ("Kein Granulom.",),
        ("DD Granulom.",),
        "Granulom in der Voruntersuchung.",
    ),
    "RID3798": Sentences(
        (
            "Mediastinale Lymphadenopathie.",
            "Vergrößerte mediastinale Lymphknoten im Sinne einer Lymphadenopathie.",
            "Ausgeprägte Lymphadenopathie im Mediastinum.",
        ),
        ("Keine Lymphadenopathie.", "Keine mediastinale oder hiläre Lymphadenopathie."),
        ("V. a. grenzwertige Lymphadenopathie.",),
        "Lymphadenopathie?",
    ),
    "RID5352": Sentences(
        ("Pneumothorax.",),
        ("Kein Pneumothorax.", "Ein Pneumothorax liegt nicht vor."),
        ("Fraglicher minimaler Pneumothorax.",),
        "Pneumothorax?",
    ),
    "RID38588": Sentences(
        ("Perikarderguss.",), ("Kein Perikarderguss.",), ("Möglicher geringer Perikarderguss.",), "Perikarderguss?"
    ),
}
"""German sentences by RadLex id."""

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
